"""Three families of Hugging Face models behind one class: asked, constrained, trained, saved."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from dots import BODY as DOT
from dots import dots, picture
from huggingface_models import FAMILIES

from actloop.actions.bins import uniform_bins
from actloop.contracts import Camera, Embodiment, Observation, Part, Space, VisionLanguageModel
from actloop.errors import CheckpointError, ContractError, MissingDependency
from actloop.models.backbone import IGNORED, Example, LanguageBackbone
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.huggingface import HuggingFaceVLM
from actloop.models.rt2 import RT2Config, RT2Policy, token_map
from actloop.models.stored import PolicyInfo
from actloop.training.recipe import Recipe
from actloop.training.rt2 import RobotExamples, fresh_policy, train_rt2

FRONT, WRIST = (np.random.default_rng(seed).integers(0, 255, (40, 64, 3)).astype(np.uint8) for seed in (1, 2))
QUESTION = "what action should the robot take to open the drawer ?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, save in FAMILIES.items():
        made[name] = tmp_path_factory.mktemp(name)
        save(made[name])
    return made


@pytest.fixture(params=FAMILIES)
def folder(request, folders):
    return folders[request.param]


def learned(model: HuggingFaceVLM) -> list[Example]:
    answers = [tuple(model.tokens.encode(text)) for text in (" 12", " 1 128 7")]
    return [
        Example(images=(FRONT, WRIST), prompt="is it open ?", answer=answers[0]),
        Example(images=(WRIST, FRONT), prompt=QUESTION, answer=answers[1]),
    ]


def test_it_answers_alike_alone_and_in_a_batch(folder):
    model = HuggingFaceVLM(folder)
    assert isinstance(model, VisionLanguageModel)
    assert isinstance(model, LanguageBackbone)
    examples = learned(model)
    images, prompts = [one.images for one in examples], [one.prompt for one in examples]
    both = model.answer(images, prompts, max_tokens=6)
    assert both == [model.answer([i], [p], max_tokens=6)[0] for i, p in zip(images, prompts, strict=True)]
    text = model.generate(images[0], prompts[0], max_tokens=6, seed=0)
    assert text == model.generate(images[0], prompts[0], max_tokens=6, seed=9) == model.tokens.decode(both[0]).strip()
    other = [np.zeros_like(FRONT), np.zeros_like(FRONT)]
    before, after = (_logits(model, shown, prompts[0]) for shown in (images[0], other))
    assert (before - after).abs().max() > 1e-3, "the pictures change nothing"


def _logits(model: HuggingFaceVLM, images, prompt: str) -> torch.Tensor:
    batch = model.collate([Example(images=tuple(images), prompt=prompt, answer=())])
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), **batch.pictures}
    with torch.no_grad():
        return model.model(**inputs).logits[0, -2]


def test_answers_and_their_end_alone_are_learned(folder):
    model = HuggingFaceVLM(folder)
    examples = learned(model)
    batch = model.collate(examples)
    for example, ids, labels, mask in zip(examples, batch.ids, batch.labels, batch.mask, strict=True):
        wanted = [*example.answer, model.tokens.end]
        assert labels[labels != IGNORED].tolist() == wanted
        assert ids[mask][-len(wanted) :].tolist() == wanted
        assert (ids[labels != IGNORED] == labels[labels != IGNORED]).all()
    losses = model(batch)
    assert torch.allclose(losses, torch.cat([model(model.collate([one])) for one in examples]), atol=1e-5)
    losses.mean().backward()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = losses.mean().item()
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(batch).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_the_loss_is_that_of_what_is_decoded(folder):
    """The first label is judged by the very logits from which the first token is decoded."""
    model = HuggingFaceVLM(folder)
    (best,) = model.answer([(FRONT, WRIST)], [QUESTION], max_tokens=1)
    examples = [Example(images=(FRONT, WRIST), prompt=QUESTION, answer=(one,)) for one in (*best, *range(60, 64))]
    batch = model.collate(examples)
    end = batch.labels == model.tokens.end
    batch.labels[end] = IGNORED
    with torch.no_grad():
        losses = model(batch)
    assert losses.argmin() == 0


def test_only_what_is_allowed_is_decoded(folder):
    model = HuggingFaceVLM(folder)
    wanted = [model.tokens.encode(" 1 2 3"), model.tokens.encode(" 7 128")]
    images = [(FRONT, WRIST), (WRIST, FRONT)]

    def allowed(ids):
        following = {one[len(ids)] for one in wanted if len(one) > len(ids) and one[: len(ids)] == list(ids)}
        return sorted(following)

    for answer in model.answer(images, ["is it open ?", QUESTION], max_tokens=9, allowed=allowed):
        assert answer in wanted
    free = model.answer(images, ["is it open ?", QUESTION], max_tokens=4)
    assert free == model.answer(images, ["is it open ?", QUESTION], max_tokens=4, allowed=lambda ids: None)
    assert model.answer(images[:1], [QUESTION], max_tokens=4, allowed=lambda ids: ()) == [[]]


def test_a_folders_own_generation_settings_change_nothing(folder, tmp_path):
    plain = HuggingFaceVLM(folder)
    plain.save(tmp_path)
    biased = {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "num_beams": 3, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(biased), encoding="utf-8")
    examples = learned(plain)
    images, prompts = [one.images for one in examples], [one.prompt for one in examples]
    again = HuggingFaceVLM(tmp_path)
    assert again.answer(images, prompts, max_tokens=8) == plain.answer(images, prompts, max_tokens=8)


def test_no_code_of_a_folder_runs(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mystery", "auto_map": {"AutoConfig": "code.Config"}}), encoding="utf-8"
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\n", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(CheckpointError, match="not a vision-language model"):
        HuggingFaceVLM(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_tokens_continue_a_text_and_specials_are_known(folder):
    tokens = HuggingFaceVLM(folder).tokens
    whole = tokens.encode(" 128 7")
    assert tokens.decode([*tokens.encode("open"), *whole]) == "open 128 7"
    assert len(whole) > 3, "an integer takes several tokens here"
    assert tokens.end in tokens.special
    assert not set(whole) & tokens.special
    assert max(tokens.special) < tokens.size
    assert tokens.decode([tokens.end, *whole, tokens.end]).strip() == "128 7"


def test_prompts_see_all_of_themselves_where_the_family_does(folders):
    """PaliGemma's prompt is bidirectional, its answer causal: the first token sees the last of the prompt."""
    model = HuggingFaceVLM(folders["paligemma"])
    examples = [Example(images=(FRONT,), prompt=text, answer=(41, 42)) for text in ("open drawer", "open block")]
    batch = model.collate(examples)
    kinds = batch.pictures["token_type_ids"]
    assert (kinds[batch.labels != IGNORED] == 1).all()
    assert kinds.sum() == (batch.labels != IGNORED).sum()
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), **batch.pictures}
    with torch.no_grad():
        logits = model.model(**inputs).logits
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 1e-4
    answers = model.collate([Example(images=(FRONT,), prompt="open", answer=(41, last)) for last in (42, 43)])
    inputs = {"input_ids": answers.ids, "attention_mask": answers.mask.long(), **answers.pictures}
    with torch.no_grad():
        logits = model.model(**inputs).logits
    assert torch.allclose(logits[0, :-2], logits[1, :-2], atol=1e-5)


def test_pictures_are_shown_in_tiles_only_where_asked(folders):
    whole, tiles = (HuggingFaceVLM(folders["smolvlm"], splitting=split) for split in (False, True))
    example = Example(images=(np.zeros((64, 64, 3), np.uint8),), prompt=QUESTION, answer=())
    assert tiles.collate([example]).ids.shape[1] > whole.collate([example]).ids.shape[1]
    assert whole.digest() != tiles.digest()


def test_smolvlm_is_shown_as_its_own_processor_does(folders, monkeypatch):
    """Where the part for videos is missing, the same pictures and tokens come out of the older class."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", lambda number: str(number), raising=False)
    folder = folders["smolvlm"]
    own = type("Still", (transformers.SmolVLMProcessor,), {"get_attributes": lambda: ["image_processor", "tokenizer"]})
    own.get_attributes = classmethod(lambda kind: ["image_processor", "tokenizer"])
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    images.do_image_splitting = False
    facts = {"image_seq_len": 4, "chat_template": (folder / "chat_template.jinja").read_text()}
    made = own(images, transformers.AutoTokenizer.from_pretrained(folder), None, **facts)
    model = HuggingFaceVLM(folder)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    asked = made.tokenizer.apply_chat_template(
        message, chat_template=facts["chat_template"], add_generation_prompt=True, tokenize=False
    )
    from PIL import Image

    theirs = made(text=[asked], images=[[Image.fromarray(FRONT)]], return_tensors="pt")
    ours = model.collate([Example(images=(FRONT,), prompt=QUESTION, answer=())])
    assert torch.equal(ours.ids[0, :-1], theirs["input_ids"][0])
    assert torch.equal(ours.pictures["pixel_values"], theirs["pixel_values"])


def test_what_cannot_be_asked_or_opened_is_refused(folders, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no such folder"):
        HuggingFaceVLM(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a vision-language model"):
        HuggingFaceVLM(tmp_path)
    model = HuggingFaceVLM(folders["paligemma"])
    with pytest.raises(ContractError, match="cannot be asked"):
        model.generate([], QUESTION, max_tokens=2, seed=0)
    with pytest.raises(ContractError, match="cannot be asked"):
        model.answer([(FRONT,)], [QUESTION, QUESTION], max_tokens=2)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r"actloop\[language\]"):
        HuggingFaceVLM(folders["paligemma"])


BODY = Embodiment(
    name="arm",
    cameras=(Camera(name="front", height=40, width=64),),
    state=Space(parts=(Part(name="gripper", unit="m", low=(0.0,), high=(0.1,)),)),
    action=Space(parts=(Part(name="gripper", unit="m", low=(0.0,), high=(0.1,)),)),
    control_hz=10.0,
)


@pytest.mark.parametrize("mapping", ["integers", "rare"])
def test_it_is_a_robots_policy_kept_by_reference(folders, tmp_path, mapping):
    family = "smolvlm" if mapping == "integers" else "paligemma"
    HuggingFaceVLM(folders[family]).save(tmp_path / "vlm")
    model = HuggingFaceVLM(tmp_path / "vlm")
    config = RT2Config(mapping=mapping, horizon=2)
    tokens = token_map(mapping, model.tokens, count=256)
    bins = uniform_bins(BODY.action.low, BODY.action.high)
    info = PolicyInfo(name=family, training={})
    policy = RT2Policy(vlm=model, embodiment=BODY, config=config, bins=bins, tokens=tokens, info=info)
    obs = Observation(images={"front": FRONT}, state=np.array([0.05], np.float32), tick=0, time=0.0)
    _, said = policy.predict(policy.start("open the drawer", seed=0), obs)
    assert said.chunk.actions.shape == (2, 1)
    save_policy(policy, tmp_path / "policy.safetensors")
    again = load_policy(tmp_path / "policy.safetensors", embodiment=BODY)
    _, repeated = again.predict(again.start("open the drawer", seed=0), obs)
    assert np.array_equal(said.chunk.actions, repeated.chunk.actions)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(CheckpointError, match="trained since"):
        save_policy(policy, tmp_path / "more.safetensors")
    (tmp_path / "vlm" / "generation_config.json").write_text('{"eos_token_id": 3}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match="changed since"):
        load_policy(tmp_path / "policy.safetensors")


def test_a_trained_one_is_kept_in_a_folder_beside_the_policy(folders, tmp_path):
    model = HuggingFaceVLM(folders["smolvlm"])
    body = replace(BODY, cameras=(Camera(name="top", height=16, width=16),), state=DOT.state, action=DOT.action)
    config = RT2Config(mapping="integers")
    policy = fresh_policy(model, body, config, name="trained")
    data = dots(tmp_path)
    robot = RobotExamples(policy, data, source="dots")
    out = tmp_path / "policy.safetensors"
    train_rt2(policy, robot, Recipe(steps=2, batch_size=2, learning_rate=1e-2, validate_every=2), out)
    again = load_policy(out)
    obs = Observation(images={"top": picture(0.5)}, state=np.array([0.5, 0.5], np.float32), tick=0, time=0.0)
    told = [one.predict(one.start("go left", seed=0), obs)[1].chunk.actions for one in (policy, again)]
    assert np.array_equal(*told)
    assert (tmp_path / "policy.backbone").is_dir()
    untouched = HuggingFaceVLM(folders["smolvlm"])
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))
