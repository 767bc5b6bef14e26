"""The Prismatic model: what is computed, what sees what, and that answers are constrained, alone and in a batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from actloop.contracts import Frame
from actloop.errors import ContractError
from actloop.models.backbone import IGNORED, Example, LanguageBackbone
from actloop.models.prismatic import (
    PIXELS,
    LanguageConfig,
    PrismaticConfig,
    PrismaticVLM,
    TextTokens,
    TowerConfig,
    train_tokens,
)
from actloop.models.stem import keypoints

TEXTS = ("where is the red block? left of the gripper", "is the drawer open? yes no", "0 1 2 17 128 255")
TOKENS = train_tokens(TEXTS, 576)
RESERVED = tuple(range(576 - 256, 576))

LANGUAGE = LanguageConfig(vocabulary=576, hidden=32, intermediate=64, layers=2, heads=4, kv_heads=2, head_dim=8)
DINO = TowerConfig(kind="dino", image_size=16, patch=8, dim=16, depth=4, heads=2, hidden=32, registers=4)
SIGLIP = TowerConfig(kind="siglip", image_size=16, patch=8, dim=24, depth=3, heads=2, hidden=40)
ONE = PrismaticConfig(towers=(SIGLIP,), language=LANGUAGE)
TWO = PrismaticConfig(towers=(DINO, SIGLIP), language=LANGUAGE)


def made(config: PrismaticConfig = ONE, seed: int = 0) -> PrismaticVLM:
    """Random weights, large enough that pictures and words matter."""
    torch.manual_seed(seed)
    model = PrismaticVLM(config, TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval()


def frames(count: int, seed: int = 0) -> tuple[Frame, ...]:
    generator = np.random.default_rng(seed)
    return tuple(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(count))


MODEL = made()
EXAMPLES = [
    Example(images=frames(2), prompt="where is the red block?", answer=(5, 6)),
    Example(images=frames(2, 1), prompt="is it open?", answer=(7, 8, 9)),
]


def test_it_is_a_language_backbone() -> None:
    assert isinstance(MODEL, LanguageBackbone)
    assert MODEL.device.type == "cpu"
    assert MODEL.tokens is TOKENS


# --- what is computed -------------------------------------------------------------------------------------------------


def counted(modules: Sequence[nn.Module]) -> list[int]:
    counts = [0] * len(modules)

    def count(at: int) -> None:
        def hook(*_: object) -> None:
            counts[at] += 1

        modules[at].register_forward_hook(hook)

    for at in range(len(modules)):
        count(at)
    return counts


def test_the_last_block_the_norm_and_the_pooling_are_held_and_not_computed() -> None:
    model = made(TWO)
    dino, siglip = model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer
    blocks = [counted(list(tower.blocks)) for tower in (dino, siglip)]
    unused = counted([dino.norm, siglip.norm, siglip.attn_pool])
    model.answer([frames(1)], ["where?"], max_tokens=3)
    assert blocks == [[1, 1, 1, 0], [1, 1, 0]]
    assert unused == [0, 0, 0]
    assert "vision_backbone.fused_featurizer.attn_pool.latent" in model.state_dict()


def test_an_action_of_seven_tokens_is_one_prefill_and_six_steps_of_one_token() -> None:
    model = made()
    lengths: list[int] = []
    layer = model.language_model.model.layers[0]
    layer.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    ids = torch.tensor([[1, 20, 21, 22]])
    found = model.decode(
        model.images([frames(1)]), ids, torch.ones_like(ids, dtype=torch.bool), tokens=7, rows=torch.tensor(RESERVED)
    )
    assert lengths == [4 + ONE.patches, 1, 1, 1, 1, 1, 1]
    lengths.clear()
    answered = model.answer_ids(model.images([frames(1)]), ids, ids > 0, max_tokens=7, allowed=lambda said: RESERVED)
    assert lengths == [4 + ONE.patches, 1, 1, 1, 1, 1, 1]
    assert answered == found.tolist()


def test_only_the_allowed_rows_of_the_output_are_computed() -> None:
    model = made()
    head = counted([model.language_model.lm_head])
    model.answer([frames(1)], ["where?"], max_tokens=3, allowed=lambda said: RESERVED)
    assert head == [0]
    hidden = torch.randn(2, 32)
    assert torch.allclose(model.logits(hidden, torch.tensor(RESERVED)), model.logits(hidden)[:, -256:], atol=1e-6)


def test_a_keypoint_tower_computes_all_that_it_holds_and_finds_where_things_are() -> None:
    tower = TowerConfig(
        kind="keypoint", image_size=16, patch=8, dim=24, depth=2, heads=2, hidden=40, channels=8, keypoints=3
    )
    model = made(PrismaticConfig(towers=(tower,), language=LANGUAGE))
    inner = model.vision_backbone.featurizer
    blocks = counted(list(inner.blocks))
    assert model.see(model.images([frames(2)])).shape == (1, 2 * (4 + 3), 32)
    assert blocks == [1, 1]
    assert not any("attn_pool" in name or ".norm." in name for name in inner.state_dict() if "patch_embed" not in name)
    maps = torch.full((1, 2, 8, 8), -20.0)
    maps[0, 0, 0, 7], maps[0, 1, 4:6, 2] = 20.0, 20.0
    places, share = keypoints(maps)
    assert torch.allclose(places[0, 0], torch.tensor([-1.0, 1.0]), atol=1e-4)
    assert torch.allclose(places[0, 1], torch.tensor([4.5 / 3.5 - 1, 2 / 3.5 - 1]), atol=1e-4)
    assert torch.allclose(share.sum(-1), torch.ones(1, 2))


def test_a_class_token_and_registers_are_stripped() -> None:
    model = made(TWO)
    pixels = model.images([frames(1)])
    assert model.vision_backbone(pixels[:, 0]).shape == (1, 4, 16 + 24)
    assert model.see(pixels).shape == (1, 4, 32)
    moved = pixels.clone()
    moved[:, :, 3:] += 1
    features, other = model.vision_backbone(pixels[:, 0]), model.vision_backbone(moved[:, 0])
    assert torch.equal(features[..., :16], other[..., :16]), "the first tower sees the first three channels alone"
    assert not torch.allclose(features[..., 16:], other[..., 16:])


# --- what sees what ---------------------------------------------------------------------------------------------------


def test_patches_lie_after_the_first_token_one_image_after_the_other() -> None:
    pixels, ids = MODEL.images([frames(2)]), torch.tensor([[1, 30, 31]])
    embeds = MODEL.embed(pixels, ids)
    words = MODEL.embed(None, ids)
    assert embeds.shape == (1, 3 + 8, 32)
    assert torch.equal(embeds[:, :1], words[:, :1])
    assert torch.equal(embeds[:, 9:], words[:, 1:])
    assert torch.allclose(embeds[:, 5:9], MODEL.see(pixels[:, 1:]), atol=1e-6)


def test_attention_is_causal_unless_asked() -> None:
    embeds = torch.randn(1, 6, 32)
    other = embeds.clone()
    other[:, 4] += 1
    causal = MODEL.hidden(embeds) - MODEL.hidden(other)
    both = MODEL.hidden(embeds, causal=False) - MODEL.hidden(other, causal=False)
    assert causal[:, :4].abs().max() == 0
    assert causal[:, 4:].abs().amin(dim=(0, 2)).min() >= 0
    assert (both.abs().amax(dim=2) > 1e-4).all()


def test_padding_is_seen_by_nobody() -> None:
    embeds = torch.randn(2, 6, 32)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    alone = MODEL.hidden(embeds[1:, :4], causal=False)
    assert torch.allclose(MODEL.hidden(embeds, mask, causal=False)[1:, :4], alone, atol=1e-5)
    assert torch.allclose(MODEL.hidden(embeds)[1:, :4], MODEL.hidden(embeds[1:, :4]), atol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_answer_and_its_end_are_labelled_and_nothing_else() -> None:
    batch = MODEL.collate(EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        labelled = batch.labels[row] != IGNORED
        assert batch.ids[row][labelled].tolist() == [*example.answer, TOKENS.end]
        assert batch.labels[row][labelled].tolist() == [*example.answer, TOKENS.end]
        assert batch.mask[row].sum() == 1 + len(TOKENS.encode(example.prompt)) + len(example.answer) + 1
        assert batch.ids[row, 0] == TOKENS.begin
    assert batch.pictures[PIXELS].shape == (2, 2, 3, 16, 16)


def test_the_loss_is_the_cross_entropy_of_the_next_token() -> None:
    batch = MODEL.collate(EXAMPLES)
    losses = MODEL(batch)
    shift = 2 * ONE.patches
    logits = MODEL.logits(MODEL.hidden(MODEL.embed(batch.pictures[PIXELS], batch.ids)))
    for row in range(2):
        at = (batch.labels[row] != IGNORED).nonzero()[:, 0]
        expected = nn.functional.cross_entropy(logits[row, at + shift - 1], batch.labels[row, at])
        assert losses[row].item() == pytest.approx(expected.item(), abs=1e-5)
        alone = MODEL(MODEL.collate(EXAMPLES[row : row + 1]))
        assert alone.item() == pytest.approx(losses[row].item(), abs=1e-5), "rows do not depend on each other"


def test_rows_without_pictures_and_without_labels() -> None:
    batch = MODEL.collate([Example(images=(), prompt="is it open?", answer=(5,))])
    assert not batch.pictures
    assert torch.isfinite(MODEL(batch)).all()
    assert MODEL(replace(batch, labels=torch.full_like(batch.labels, IGNORED))).tolist() == [0.0]


@pytest.mark.parametrize("config", [ONE, TWO], ids=["one tower", "two towers"])
def test_examples_about_the_same_pictures_share_them_and_learn_as_they_would_alone(config: PrismaticConfig) -> None:
    model, (one, other) = made(config), (frames(2), frames(2, seed=1))
    said = [("ask", (5, 6, 7)), ("a longer question", (8,)), ("", (9, 4)), ("again", ()), ("ask", (5, 6, 8))]
    shown = [one, other, one, one, other]
    packed = [Example(images=at, prompt=prompt, answer=ids) for at, (prompt, ids) in zip(shown, said, strict=True)]
    alone = [replace(example, images=(*example.images,)) for example in packed]
    together, apart = model.collate(packed), model.collate(alone)
    assert apart.owners is None
    assert len(apart.ids) == 5
    assert len(together.ids) == len(together.pictures["pixels"]) == 2
    expected, got = model(apart), model(together)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(losses.mean(), model.projector.parameters()) for losses in (expected, got)]
    for right, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-6, rtol=1e-4)


def test_it_learns_two_answers_and_their_ends() -> None:
    model = made(replace(ONE, language=replace(LANGUAGE, layers=1))).train()
    batch = model.collate(EXAMPLES)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    said = model.eval().answer([e.images for e in EXAMPLES], [e.prompt for e in EXAMPLES], max_tokens=8)
    assert said == [list(example.answer) for example in EXAMPLES]


# --- answering --------------------------------------------------------------------------------------------------------


def prefix(model: PrismaticVLM, images: Sequence[Frame], prompt: str, said: Sequence[int]) -> Tensor:
    """Logits of the next token, without any memory."""
    ids = torch.tensor([[TOKENS.begin, *TOKENS.encode(prompt), *said]])
    with torch.no_grad():
        logits: Tensor = model.logits(model.hidden(model.embed(model.images([images]), ids))[0, -1])
    return logits


@pytest.mark.parametrize("config", [ONE, TWO], ids=["one tower", "two towers"])
def test_decoding_with_memory_is_decoding_without(config: PrismaticConfig) -> None:
    model = made(config, seed=3)
    (said,) = model.answer([frames(1)], ["where is it?"], max_tokens=10, allowed=lambda said: RESERVED)
    again: list[int] = []
    for _ in range(10):
        logits = prefix(model, frames(1), "where is it?", again)
        again.append(RESERVED[0] + int(logits[list(RESERVED)].argmax()))
    assert said == again


def test_a_batch_answers_as_its_rows_do_alone() -> None:
    images = [frames(2, seed) for seed in range(4)]
    prompts = ["where?", "where is the red block, and what is left of it?", "is it open?", "?"]
    together = MODEL.answer(images, prompts, max_tokens=9)
    alone = [MODEL.answer([i], [p], max_tokens=9)[0] for i, p in zip(images, prompts, strict=True)]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1


def test_hidden_states_of_a_batch_are_those_of_its_rows() -> None:
    rows = [[1, 20, 21, 22, 23, 24], [1, 30], [1, 40, 41, 42]]
    pixels = MODEL.images([frames(1, seed) for seed in range(3)])
    ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = torch.tensor(row), True
    together = MODEL.prefill(pixels, ids, mask, room=3)
    alone = [
        MODEL.prefill(pixels[at : at + 1], torch.tensor([row]), torch.ones(1, len(row)).bool(), room=3)
        for at, row in enumerate(rows)
    ]
    for token in (7, 8, 9, None):
        assert (together.hidden - torch.cat([one.hidden for one in alone])).abs().max() < 1e-5
        if token is not None:
            together.feed(torch.tensor([token] * 3))
            for one in alone:
                one.feed(torch.tensor([token]))


def test_a_row_that_ends_early_lets_the_others_go_on() -> None:
    """After the first token of the second row, only the end may follow there."""
    images, prompts = [frames(1), frames(1, 1)], ["where?", "is it?"]
    free = MODEL.answer(images, prompts, max_tokens=4, allowed=lambda said: RESERVED)
    assert free[0][0] != free[1][0]

    def allowed(said: Sequence[int]) -> Sequence[int]:
        return [TOKENS.end] if said == [free[1][0]] else RESERVED

    found = MODEL.answer(images, prompts, max_tokens=4, allowed=lambda said: allowed(list(said)))
    assert found == [free[0], free[1][:1]]


def test_an_answer_ends_where_nothing_is_allowed() -> None:
    said = MODEL.answer([frames(1)], ["where?"], max_tokens=9, allowed=lambda said: RESERVED if len(said) < 2 else [])
    assert [len(row) for row in said] == [2]
    assert MODEL.answer([frames(1)], ["where?"], max_tokens=0) == [[]]


@settings(max_examples=25, deadline=None)
@given(
    slots=st.lists(st.sets(st.integers(3, 575), min_size=1, max_size=6), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_what_is_not_allowed_is_never_said(slots: list[set[int]], seed: int) -> None:
    """Whatever the logits are: the output matrix is drawn anew."""
    torch.manual_seed(seed)
    nn.init.normal_(DRAWN.language_model.lm_head.weight)
    (said,) = DRAWN.answer([frames(1)], ["where?"], max_tokens=len(slots), allowed=lambda said: list(slots[len(said)]))
    assert len(said) == len(slots)
    assert all(token in slot for token, slot in zip(said, slots, strict=True))


DRAWN = made()


def test_constraints_that_differ_between_rows() -> None:
    images, prompts = [frames(1), frames(1, 1)], ["where?", "is it open?"]
    turn = iter(range(100))
    found = MODEL.answer(
        images, prompts, max_tokens=1, allowed=lambda said: None if next(turn) % 2 else (400, 401, 402)
    )
    (free,) = MODEL.answer(images[1:], prompts[1:], max_tokens=1)
    (barred,) = MODEL.answer(images[:1], prompts[:1], max_tokens=1, allowed=lambda said: (400, 401, 402))
    assert found == [barred, free]


def test_the_picture_matters_to_the_answer() -> None:
    hidden = [
        MODEL.prefill(MODEL.images([frames(1, seed)]), torch.tensor([[1, 20]]), torch.ones(1, 2).bool(), room=0).hidden
        for seed in range(2)
    ]
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(ContractError, match="images for each prompt, got 1 and 2"):
        MODEL.answer([frames(1)], ["a", "b"], max_tokens=1)
    with pytest.raises(ContractError, match=r"as many in each row.*\[1, 2\]"):
        MODEL.answer([frames(1), frames(2)], ["a", "b"], max_tokens=1)
    with pytest.raises(ContractError, match="id 576 of a vocabulary of 576"):
        MODEL.answer([frames(1)], ["a"], max_tokens=1, allowed=lambda said: [576])
    with pytest.raises(ContractError, match="positions, and the model has 2048"):
        MODEL.answer([frames(1)], ["a"], max_tokens=2048)
    with pytest.raises(ContractError, match="expected at least one"):
        MODEL.collate([])
    with pytest.raises(ContractError, match="1 or more, got 0"):
        MODEL.decode(None, torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1).bool(), tokens=0)


def test_a_model_without_a_tokenizer_says_so() -> None:
    model = PrismaticVLM(ONE)
    assert not model.reads_text
    with pytest.raises(ContractError, match="came without a tokenizer"):
        model.answer([frames(1)], ["a"], max_tokens=1)
    with pytest.raises(ContractError, match="tokenizer knows 700 ids, the model has 576 rows"):
        model.tokens = train_tokens(TEXTS, 700)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 20}, "does not divide"),
        ({"heads": 5}, "does not divide"),
        ({"depth": 1}, "the last block is not computed"),
        ({"kind": "clip"}, "unknown name 'clip'"),
        ({"kind": "keypoint"}, "needs channels"),
        ({"keypoints": 4}, "are of kind 'keypoint'"),
        ({"kind": "keypoint", "channels": 6}, "in 4 groups"),
    ],
)
def test_towers_that_cannot_be_built(change: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        replace(SIGLIP, **change)


def test_models_that_cannot_be_built() -> None:
    with pytest.raises(ContractError, match="same number of patches, got 4 and 16"):
        replace(TWO, towers=(DINO, replace(SIGLIP, image_size=32)))
    with pytest.raises(ContractError, match="one or two"):
        replace(ONE, towers=())
    with pytest.raises(ContractError, match="expected a multiple"):
        replace(LANGUAGE, kv_heads=3)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_trained_tokens_encode_any_text_and_never_the_reserved_ones() -> None:
    text = "Où est <reserved400> le bloc 红? 128"
    ids = TOKENS.encode(text)
    assert TOKENS.decode(ids) == text
    assert not set(ids) & set(RESERVED)
    assert TOKENS.size == 576
    assert TOKENS.special == {TOKENS.begin, TOKENS.end, TOKENS.pad}
    assert TOKENS.decode([TOKENS.begin, *TOKENS.encode("yes"), TOKENS.end]) == "yes"
    assert TOKENS.token(TOKENS.end) == "<eos>"
    assert TOKENS.id_of("<reserved400>") in RESERVED


def test_tokens_in_a_checkpoint_are_the_same() -> None:
    again = TextTokens.from_json(TOKENS.to_json())
    assert (again.size, again.begin, again.end, again.pad) == (TOKENS.size, TOKENS.begin, TOKENS.end, TOKENS.pad)
    assert again.encode("is the red block left?") == TOKENS.encode("is the red block left?")
    assert again.special == TOKENS.special


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(ContractError, match="expected 515 or more with 256 reserved tokens, got 512"):
        train_tokens(TEXTS, 512)
