"""Prismatic models on disk: released layouts, native files, images, tokenizers; and what does not fit is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from actloop.errors import CheckpointError, ContractError
from actloop.models.prismatic import (
    ImageProcessor,
    LanguageConfig,
    PrismaticConfig,
    PrismaticVLM,
    TextTokens,
    TowerConfig,
    load_native,
    load_prismatic,
    save_prismatic,
    train_tokens,
)
from actloop.models.prismatic.images import View
from actloop.models.prismatic.weights import layout

SHARED = Path(__file__).parents[2] / "shared"
released = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
TEXTS = ("pick up the red block", "what action should the robot take?")
TOKENS = train_tokens(TEXTS, 512, reserved=128)
CONFIG = PrismaticConfig(
    towers=(
        TowerConfig(
            kind="dino",
            image_size=16,
            patch=8,
            dim=12,
            depth=3,
            heads=3,
            hidden=24,
            registers=2,
            mean=(0.5, 0.25, 0.125),
            timm_id="vit_ours",
        ),
        TowerConfig(kind="siglip", image_size=16, patch=8, dim=20, depth=2, heads=5, hidden=30),
    ),
    language=LanguageConfig(
        vocabulary=512, hidden=24, intermediate=40, layers=2, heads=6, kv_heads=3, head_dim=4, eps=1e-5, rope_theta=5e4
    ),
    resize="letterbox",
)


def made(config: PrismaticConfig = CONFIG, tokens: TextTokens | None = None) -> PrismaticVLM:
    torch.manual_seed(1)
    return PrismaticVLM(config, tokens).eval()


def same(first: PrismaticVLM, second: PrismaticVLM) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_prismatic(made(tokens=TOKENS), tmp_path / "model")
    return tmp_path / "model"


# --- configurations ---------------------------------------------------------------------------------------------------


@released
def test_the_full_size_has_exactly_the_released_names_and_shapes() -> None:
    lines = (SHARED / "fixtures" / "openvla" / "full_keys_7b.txt").read_text().splitlines()
    pairs = (line.split(" (") for line in lines if line)
    theirs = {name: tuple(int(part) for part in shape.rstrip(")").split(",") if part.strip()) for name, shape in pairs}
    ours = layout(PrismaticConfig.openvla_7b())
    assert ours == theirs
    assert len(ours) == 982
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 7_541_237_184


def test_sizes_of_the_full_model_follow_from_its_tensors_and_four_keys() -> None:
    full = PrismaticConfig.openvla_7b()
    text = {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064}
    plain = {
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "image_resize_strategy": "resize-naive",
        "pad_to_multiple_of": 64,
        "text_config": text,
    }
    found = PrismaticConfig.from_hf(plain, layout(full))
    assert found == full
    assert found.language.eps == 1e-6


OWN = PrismaticConfig.tiny(1000, image_size=16, vision_dim=16, hidden=32, layers=1, channels=8, keypoints=3)


def test_a_model_of_our_own_kind_of_tower_survives_its_folder(tmp_path: Path) -> None:
    model = PrismaticVLM(OWN).eval()
    save_prismatic(model, tmp_path)
    again = load_prismatic(tmp_path)
    assert again.config == OWN
    pixels = torch.rand(1, 1, 3, 16, 16)
    assert torch.equal(again.see(pixels), model.see(pixels))


def test_a_configuration_survives_json() -> None:
    for config in (CONFIG, PrismaticConfig.openvla_7b(), PrismaticConfig.tiny(1000), OWN):
        assert PrismaticConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(CheckpointError, match="model configuration"):
        PrismaticConfig.from_dict({**CONFIG.as_dict(), "colour": "red"})
    with pytest.raises(CheckpointError, match="KeyError: 'towers'"):
        PrismaticConfig.from_dict({})


def test_head_counts_follow_from_released_ids_else_there_are_four() -> None:
    def heads(timm_id: str, dim: int) -> int:
        config = replace(CONFIG, towers=(replace(CONFIG.towers[1], dim=dim, heads=4),))
        return PrismaticConfig.from_hf({"timm_model_ids": [timm_id]} | TEXT, layout(config)).towers[0].heads

    assert heads("vit_base_patch16_siglip_224", 768) == 12
    assert heads("vit_tinysiglip_patch14", 48) == 4
    assert heads("vit_base_patch16_siglip_224", 64) == 4


TEXT = {"text_config": {"num_attention_heads": 6, "num_key_value_heads": 3}}


def test_models_of_another_kind_are_refused() -> None:
    shapes = layout(CONFIG)
    with pytest.raises(CheckpointError, match="expected 'llama', got 'phi'"):
        PrismaticConfig.from_hf({"text_config": {"model_type": "phi"}}, shapes)
    with pytest.raises(CheckpointError, match="expected plain rotary positions"):
        PrismaticConfig.from_hf({"text_config": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}}, shapes)
    with pytest.raises(CheckpointError, match="neither a DINOv2 nor a SigLIP"):
        PrismaticConfig.from_hf(TEXT, {name: shape for name, shape in shapes.items() if "attn_pool" not in name})
    with pytest.raises(CheckpointError, match="not those of a Prismatic model"):
        PrismaticConfig.from_hf(TEXT, {name: shape for name, shape in shapes.items() if "embed_tokens" not in name})
    with pytest.raises(CheckpointError, match="one or two"):
        PrismaticConfig.from_hf(TEXT, {name: shape for name, shape in shapes.items() if "vision" not in name})


# --- the released layout ----------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(folder: Path) -> None:
    again = load_prismatic(folder)
    assert again.config == CONFIG
    assert same(again, made())
    assert again.tokens.encode("pick up the block") == TOKENS.encode("pick up the block")
    assert (again.tokens.begin, again.tokens.end, again.tokens.pad) == (TOKENS.begin, TOKENS.end, TOKENS.pad)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    asked = {"max_tokens": 4, "allowed": lambda said: range(400, 512)}
    assert again.answer([[picture]], ["pick?"], **asked) == made(tokens=TOKENS).answer([[picture]], ["pick?"], **asked)


def test_one_tower_comes_back_too(tmp_path: Path) -> None:
    one = replace(CONFIG, towers=CONFIG.towers[1:], resize="resize-crop")
    save_prismatic(made(one), tmp_path)
    again = load_prismatic(tmp_path)
    assert again.config == one
    assert same(again, made(one))
    assert not again.reads_text
    assert "projector.fc3.weight" not in again.state_dict()


def test_a_model_that_was_loaded_can_be_trained(folder: Path) -> None:
    model = load_prismatic(folder).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.hidden(model.embed(None, torch.tensor([[1, 2]]))).sum().backward()
    with torch.no_grad():
        model.language_model.model.norm.weight += 1
    assert same(load_prismatic(folder), made()), "the file is not written to"


def test_bf16_stays_exact_where_it_matters(tmp_path: Path) -> None:
    save_prismatic(made().to(torch.bfloat16), tmp_path)
    model = load_prismatic(tmp_path)
    assert model.dtype == torch.bfloat16
    cos, _ = model.language_model.model.rotary_emb(torch.zeros(1), torch.tensor([[1000]]))
    exact, _ = made().language_model.model.rotary_emb(torch.zeros(1), torch.tensor([[1000]]))
    assert torch.equal(cos, exact), "rotary positions are not rounded with the weights"
    wide = load_prismatic(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32
    hidden = model.hidden(model.embed(None, torch.tensor([[1, 2, 3]])))
    expected = wide.hidden(wide.embed(None, torch.tensor([[1, 2, 3]])))
    assert hidden.dtype == torch.bfloat16
    assert (hidden.float() - expected).abs().max() < 0.05


def test_shards_are_read(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {name: file for file, held in halves.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(load_prismatic(folder), made())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002"):
        load_prismatic(folder)


def test_tied_embeddings_are_untied(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing language_model\.lm_head\.weight"):
        load_prismatic(folder)
    plain = json.loads((folder / "config.json").read_text())
    plain["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(plain))
    held = load_prismatic(folder).state_dict()
    assert torch.equal(held["language_model.lm_head.weight"], held["language_model.model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("projector.fc2.bias"), r"missing projector\.fc2\.bias"),
        (lambda held: held.pop("vision_backbone.fused_featurizer.attn_pool.q.bias"), r"missing .*attn_pool\.q\.bias"),
        (lambda held: held.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda held: held.update({"vision_backbone.featurizer.blocks.1.ls1.scale_factor": torch.zeros(13)}),
            r"blocks\.1\.ls1\.scale_factor: expected shape \(12,\), got \(13,\)",
        ),
        (
            lambda held: held.update({"vision_backbone.featurizer.cls_token": torch.zeros(1, 1, 12).half()}),
            "say which dtype to load it as",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: object, message: str) -> None:
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    assert callable(change)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_prismatic(folder)


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_prismatic(tmp_path / "nowhere")
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object, got list"):
        load_prismatic(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_prismatic(folder)


# --- native files -----------------------------------------------------------------------------------------------------


def native(model: PrismaticVLM, *, fused: bool = True) -> dict[str, dict[str, Tensor]]:
    """As the native code saves it: other names, three groups."""
    groups: dict[str, dict[str, Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    for name, tensor in model.state_dict().items():
        part, _, inner = name.partition(".")
        if part == "language_model":
            groups["llm_backbone"][f"llm.{inner}"] = tensor
        elif part == "projector":
            layer, kind = inner.split(".")
            groups["projector"][f"projector.{2 * (int(layer[2]) - 1)}.{kind}"] = tensor
        else:
            plain = inner.replace("scale_factor", "gamma").replace("fused_featurizer.", "siglip_featurizer.")
            plain = plain if plain.startswith("siglip") or not fused else f"dino_{plain}"
            groups["vision_backbone"][plain] = tensor
    return groups


def test_a_native_file_is_renamed_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "step-1.pt"
    torch.save({"model": native(made()), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, path)
    assert same(load_native(path, CONFIG), made())
    with pytest.raises(CheckpointError, match="24 channels do not divide into 32 heads"):
        load_native(path)


def test_sizes_of_a_native_file_follow_from_it(tmp_path: Path) -> None:
    towers = (replace(CONFIG.towers[1], heads=4),)
    config = replace(
        CONFIG,
        towers=towers,
        resize="resize-naive",
        language=replace(CONFIG.language, hidden=64, heads=32, kv_heads=32, head_dim=2, rope_theta=1e4),
    )
    torch.save({"model": native(made(config), fused=False)}, tmp_path / "one.pt")
    found = load_native(tmp_path / "one.pt")
    assert found.config == config
    assert found.config.language.eps == 1e-5
    assert same(found, made(config))


def test_heads_of_the_released_towers_follow_from_their_width() -> None:
    full = PrismaticConfig.openvla_7b()
    native_shapes = PrismaticConfig.from_hf({"text_config": {"rms_norm_eps": 1e-5}}, layout(full))
    assert [tower.heads for tower in native_shapes.towers] == [16, 16]
    larger = {"timm_model_ids": ["", ""], "image_sizes": [384, 384]}
    with pytest.raises(CheckpointError, match="384 px, its positions are for 224"):
        PrismaticConfig.from_hf(larger, layout(full))


def test_a_native_file_with_more_than_a_model_is_refused(tmp_path: Path) -> None:
    groups: dict[str, dict[str, Tensor]] = {**native(made()), "action_head": {"fc.weight": torch.zeros(2)}}
    torch.save({"model": groups}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"unexpected model\.action_head\.fc\.weight"):
        load_native(tmp_path / "more.pt", CONFIG)


# --- images -----------------------------------------------------------------------------------------------------------


@released
def test_the_photo_becomes_exactly_the_released_pixels() -> None:
    from PIL import Image

    folder = SHARED / "fixtures" / "openvla"
    processor = ImageProcessor.from_hf(json.loads((folder / "preprocessor_config.json").read_text()))
    with Image.open(SHARED / "data" / "ecot_test_obs.png") as picture, np.load(folder / "ecot_test_obs.npz") as held:
        ours, theirs = processor([[np.asarray(picture.convert("RGB"))]])[0], torch.from_numpy(held["pixel_values"])
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


GREY = View(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def painted(height: int, width: int) -> np.ndarray:
    """Red on the left half, green on the right, a blue line on top."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[:, : width // 2, 0] = 255
    frame[:, width // 2 :, 1] = 255
    frame[0] = (0, 0, 255)
    return frame


def test_pictures_of_the_right_size_are_not_touched() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for resize in ("resize-naive", "resize-crop", "letterbox"):
        pixels = ImageProcessor(views=(GREY,), resize=resize)([[frame]])
        assert torch.equal(pixels[0, 0], (torch.from_numpy(frame).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)


def test_each_strategy_makes_its_own_square() -> None:
    wide = painted(8, 32)
    stretched, cropped, boxed = (
        ImageProcessor(views=(GREY,), resize=resize)([[wide]])[0, 0]
        for resize in ("resize-naive", "resize-crop", "letterbox")
    )
    assert stretched[0, 4, 0] == 1
    assert stretched[1, 4, 7] == 1
    assert torch.equal(cropped, torch.from_numpy(wide[:, 12:20]).permute(2, 0, 1).float() / 255 / 0.5 - 1)
    assert torch.allclose(boxed[:, 0], torch.full((3, 8), 127 / 255 / 0.5 - 1)), "grey above"
    assert boxed[0, 4, 1] > 0.9
    tall = ImageProcessor(views=(GREY,), resize="resize-crop")([[painted(33, 9)]])
    assert tall.shape == (1, 1, 3, 8, 8)


def test_towers_have_their_own_statistics() -> None:
    other = replace(GREY, mean=(0.0, 0.25, 1.0), std=(1.0, 0.5, 2.0))
    frame = np.full((8, 8, 3), 255, dtype=np.uint8)
    pixels = ImageProcessor(views=(other, GREY))([[frame, frame]])
    assert pixels.shape == (1, 2, 6, 8, 8)
    assert pixels[0, 1, :, 3, 3].tolist() == [1.0, 1.5, 0.0, 1.0, 1.0, 1.0]


def test_an_image_processor_survives_its_json() -> None:
    for config in (CONFIG, PrismaticConfig.openvla_7b()):
        processor = ImageProcessor.of(config)
        assert ImageProcessor.from_hf(json.loads(json.dumps(processor.as_hf()))) == processor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tvf_normalize_params": [{"mean": [0.5]}]}, "not of a Prismatic image processor"),
        ({"interpolations": ["bilinear", "bicubic"]}, "expected bicubic"),
        ({"input_sizes": None}, "not of a Prismatic image processor"),
        ({"image_resize_strategy": "squash"}, "unknown name 'squash'"),
        ({"input_sizes": [[3, 224, 224], [3, 384, 384]]}, "towers of one size"),
    ],
)
def test_processors_that_are_not_understood(change: dict[str, object], message: str) -> None:
    plain = ImageProcessor.of(PrismaticConfig.openvla_7b()).as_hf() | change
    with pytest.raises(CheckpointError, match=message):
        ImageProcessor.from_hf(plain)


def test_a_processor_for_other_towers_is_refused(folder: Path) -> None:
    one = ImageProcessor(views=(GREY,))
    (folder / "preprocessor_config.json").write_text(json.dumps(one.as_hf()))
    with pytest.raises(CheckpointError, match="is for 1 towers, the model has 2"):
        load_prismatic(folder)


@pytest.mark.parametrize("frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ContractError, match=r"expected uint8 \(height, width, 3\)"):
        ImageProcessor(views=(GREY,))([[frame]])


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_a_sentencepiece_model_is_read(tmp_path: Path) -> None:
    """A Llama-type one: byte fall-back, a space put before the text, ids 1 and 2 that begin and end."""
    import sentencepiece

    words = [
        f"{verb} the {colour} block number {n}"
        for verb in ("take", "move")
        for colour in ["red", "green", "blue"]
        for n in range(10)
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    tokens = TextTokens.from_folder(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    for text in ("take the red block", "move the green block number 7", "käse 红", "a  b", " take", ""):
        assert tokens.encode(text) == reference.encode(text)
    assert (tokens.begin, tokens.end) == (1, 2)
    assert tokens.decode([1, *tokens.encode("take the red block"), 2]).strip() == "take the red block"
    again = TextTokens.from_json(tokens.to_json())
    assert again.encode("move the blue block") == reference.encode("move the blue block")


def test_special_tokens_named_as_objects_are_found(folder: Path) -> None:
    named = {"bos_token": {"content": "<bos>", "lstrip": False}, "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    tokens = TextTokens.from_folder(folder)
    assert (tokens.begin, tokens.end, tokens.pad) == (TOKENS.begin, TOKENS.end, TOKENS.end)


def test_tokenizers_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json or tokenizer\.model"):
        TextTokens.from_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        TextTokens.from_folder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        TextTokens.from_folder(folder)
    for text in ("", "[]", json.dumps({"tokenizer": {}, "begin": 0, "end": 1, "pad": 2})):
        with pytest.raises(CheckpointError, match="not as we store one"):
            TextTokens.from_json(text)


def test_a_tokenizer_that_names_no_ends_is_refused(folder: Path) -> None:
    plain = json.loads((folder / "tokenizer.json").read_text())
    for token in plain["added_tokens"]:
        token["content"] = token["content"].upper()
    plain["model"]["vocab"] = {
        piece.upper() if piece in ("<pad>", "<bos>", "<eos>") else piece: at
        for piece, at in plain["model"]["vocab"].items()
    }
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="names no tokens that begin and end"):
        TextTokens.from_folder(folder)
