"""Released weights in every layout, strictly; the start from Wan; a whole released policy from files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_release import FIXTURE, release, small, write_files

from actloop.contracts import Observation
from actloop.errors import CheckpointError, ContractError
from actloop.models.checkpoint import load_fastwam, load_policy, save_policy
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.fastwam.weights import (
    layout,
    load_weights,
    released_names,
    resized,
    save_released,
    start_action_expert,
    start_from_wan,
)
from actloop.models.released import assemble, load_released
from actloop.models.wan import PromptCache
from actloop.models.wan.text import RELEASED_TEMPLATE


@pytest.fixture
def model() -> FastWAM:
    torch.manual_seed(0)
    built = FastWAM(small())
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built.eval()


def same(left: FastWAM, right: FastWAM) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_released_payload_comes_back_unchanged(model: FastWAM, tmp_path: Path) -> None:
    save_released(model, tmp_path / "a.pt", step=7)
    payload = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(payload) == {"mot", "proprio_encoder", "step", "torch_dtype"}
    assert (payload["step"], payload["torch_dtype"]) == (7, "torch.float32")
    assert all(name.startswith(("mixtures.video.", "mixtures.action.")) for name in payload["mot"])
    assert same(load_weights(tmp_path / "a.pt", small()), model)
    assert load_weights(tmp_path / "a.pt", small(), dtype=torch.bfloat16).action.head.weight.dtype == torch.bfloat16


def test_a_resumable_payload_loads_without_its_optimizer(model: FastWAM, tmp_path: Path) -> None:
    save_released(model, tmp_path / "a.pt")
    payload = torch.load(tmp_path / "a.pt", weights_only=True)
    payload["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(payload, tmp_path / "b.pt")
    assert same(load_weights(tmp_path / "b.pt", small()), model)


def test_shards_and_both_lerobot_layouts_are_the_same_weights(model: FastWAM, tmp_path: Path) -> None:
    plain = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    named = {name if name.startswith("proprio") else f"mot.{name}": tensor for name, tensor in plain.items()}
    shards, index = [dict(list(named.items())[half::2]) for half in range(2)], {}
    (tmp_path / "shards").mkdir()
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file(shard, tmp_path / "shards" / file)
        index |= dict.fromkeys(shard, file)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    legacy = {f"model.{name}": tensor for name, tensor in named.items()}
    save_file(legacy, tmp_path / "legacy.safetensors")
    modern = {}
    for name, tensor in legacy.items():
        parts = name.split(".")  # model.mot.mixtures.<expert>.blocks.<i>.<rest>
        if "blocks" in parts:
            name = ".".join(["model.mot.layers", parts[5], "blocks", parts[3], *parts[6:]])
        modern[name] = tensor
    save_file(modern, tmp_path / "modern.safetensors")
    assert "model.mot.layers.1.blocks.action.ffn.0.weight" in modern
    for path in ("shards", "legacy.safetensors", "modern.safetensors"):
        assert same(load_weights(tmp_path / path, small()), model), path


def test_every_wrong_tensor_is_named(model: FastWAM, tmp_path: Path) -> None:
    save_released(model, tmp_path / "a.pt")
    payload = torch.load(tmp_path / "a.pt", weights_only=True)
    del payload["mot"]["mixtures.video.blocks.1.ffn.0.bias"]
    payload["mot"]["mixtures.action.surprise"] = torch.zeros(1)
    payload["proprio_encoder"]["weight"] = torch.zeros(16, 14)
    torch.save(payload, tmp_path / "b.pt")
    with pytest.raises(CheckpointError) as caught:
        load_weights(tmp_path / "b.pt", small())
    said = str(caught.value)
    assert "missing mixtures.video.blocks.1.ffn.0.bias" in said
    assert "unexpected mixtures.action.surprise" in said
    assert "proprio_encoder.weight: expected shape (16, 8), got (16, 14)" in said
    with pytest.raises(CheckpointError, match="action_embedding"):
        load_weights(tmp_path / "a.pt", small(variant="action-conditioned"))
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "c.pt", small())


def test_a_network_with_parts_of_our_own_does_not_pass_for_a_released_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no place for"):
        save_released(FastWAM(FastWAMConfig.tiny()), tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_the_action_expert_starts_as_the_video_expert_resized(model: FastWAM) -> None:
    start_action_expert(model)
    video, action = model.video.state_dict(), model.action.state_dict()
    assert torch.equal(action["blocks.0.self_attn.norm_q.weight"], video["blocks.0.self_attn.norm_q.weight"])
    # Outputs of q keep their number, inputs shrink from 48 to 32: resampled, and scaled by sqrt(48 / 32).
    row = np.interp(np.linspace(0, 47, 32), np.arange(48), video["blocks.1.self_attn.q.weight"][5].numpy())
    np.testing.assert_allclose(action["blocks.1.self_attn.q.weight"][5].numpy(), row * 1.5**0.5, rtol=1e-4, atol=1e-6)
    # Outputs of o shrink, inputs do not: no scale.
    column = np.interp(np.linspace(0, 47, 32), np.arange(48), video["blocks.1.self_attn.o.weight"][:, 3].numpy())
    np.testing.assert_allclose(action["blocks.1.self_attn.o.weight"][:, 3].numpy(), column, rtol=1e-4, atol=1e-6)
    # A bias is a vector: never scaled. The modulation is a tensor whose last dimension changes: scaled.
    bias = np.interp(np.linspace(0, 47, 32), np.arange(48), video["blocks.0.self_attn.o.bias"].numpy())
    np.testing.assert_allclose(action["blocks.0.self_attn.o.bias"].numpy(), bias, rtol=1e-4, atol=1e-6)
    middle = resized(video["blocks.0.modulation"], (1, 6, 32))
    assert torch.equal(action["blocks.0.modulation"], middle)
    assert float(middle.norm() / video["blocks.0.modulation"].norm()) == pytest.approx(1.0, abs=0.1)


def test_resizing_in_bf16_rounds_back_after_every_dimension() -> None:
    source = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = resized(source, (4, 5))
    assert out.dtype == torch.bfloat16
    rows = torch.nn.functional.interpolate(source.float().T[:, None], size=4, mode="linear", align_corners=True)[
        :, 0
    ].T.bfloat16()
    columns = torch.nn.functional.interpolate(rows.float()[:, None], size=5, mode="linear", align_corners=True)[:, 0]
    assert torch.equal(out, (columns.bfloat16().float() * 2**0.5).bfloat16())
    with pytest.raises(CheckpointError, match="dimensions"):
        resized(source, (4, 5, 1))


def test_training_can_start_from_wan(model: FastWAM, tmp_path: Path) -> None:
    wan = {name: tensor.contiguous() for name, tensor in model.video.state_dict().items()}
    save_file(wan, tmp_path / "diffusion_pytorch_model.safetensors")
    fresh = FastWAM(small())
    before = fresh.action.action_encoder.weight.clone()
    start_from_wan(fresh, tmp_path)
    assert all(torch.equal(tensor, wan[name]) for name, tensor in fresh.video.state_dict().items())
    assert torch.equal(fresh.action.action_encoder.weight, before), "nothing to start it from"
    wan.pop("head.head.bias")
    save_file(wan, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing head\.head\.bias"):
        start_from_wan(FastWAM(small()), tmp_path)


def test_the_whole_released_layout_is_ours() -> None:
    released = json.loads((Path(__file__).parent / "fixtures" / "fastwam" / "full_keys.json").read_text())
    expected = {f"mixtures.{e}.{name}": tuple(s) for e in ("video", "action") for name, s in released[e].items()}
    ours = layout(FastWAMConfig.full())
    assert {name: shape for name, shape in ours.items() if name in expected} == expected
    assert set(ours) - set(expected) == {"proprio_encoder.weight", "proprio_encoder.bias"}
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 6_020_710_599


def test_names_of_unknown_layouts_stay_as_they_are() -> None:
    assert list(released_names({"something.else": torch.zeros(1)})) == ["something.else"]


# --- a whole policy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(model: FastWAM, tmp_path: Path) -> dict[str, Path]:
    if not (FIXTURE / "tiny_vae.pt").is_file():
        pytest.skip("the tiny video codec is not beside this checkout")
    return write_files(model, tmp_path)


def observation(**changes: object) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for name in ("front", "wrist")}
    base = Observation(images=images, state=np.zeros(8, np.float32), tick=3, time=0.15)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_released_policy_acts_in_physical_units_and_survives_our_own_file(
    files: dict[str, Path], tmp_path: Path
) -> None:
    policy = assemble(release(), **files, dtype=torch.float32)
    session = policy.start("open the drawer", seed=0)
    again, first = policy.predict(session, observation(), imagine=True)
    assert first.chunk.actions.shape == (8, 7)
    assert set(np.unique(first.chunk.actions[:, -1])) <= {-1.0, 0.0, 1.0}, "the gripper is commanded as robosuite does"
    assert first.future is not None
    assert first.future.frames["wrist"].shape == (8, 32, 32, 3)
    assert first.future.period == pytest.approx(1 / 20), "eight frames over eight ticks"
    assert not first.future.follows_chunk
    _, other = policy.predict(again, observation())
    assert not np.array_equal(first.chunk.actions, other.chunk.actions), "a replan draws fresh noise"

    save_policy(policy, tmp_path / "ours.safetensors")
    back = load_policy(tmp_path / "ours.safetensors", embodiment=release().embodiment)
    _, repeated = back.predict(back.start("open the drawer", seed=0), observation())
    np.testing.assert_allclose(repeated.chunk.actions, first.chunk.actions, rtol=1e-4, atol=1e-5)
    assert back.digest() == policy.digest()


def test_a_decoder_on_demand_is_saved_with_the_rest(files: dict[str, Path], tmp_path: Path) -> None:
    policy = assemble(release(), **files, dtype=torch.float32)
    save_policy(policy, tmp_path / "whole.safetensors")
    lean = load_fastwam(tmp_path / "whole.safetensors", keep_decoder=False)
    assert lean.digest() == policy.digest()
    save_policy(lean, tmp_path / "again.safetensors")
    assert load_policy(tmp_path / "again.safetensors").digest() == policy.digest()


def test_frames_are_decoded_only_when_somebody_looks(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = assemble(release(), **files, dtype=torch.float32)
    decoded = []
    decode = policy.codec.decode
    monkeypatch.setattr(policy.codec, "decode", lambda latents: decoded.append(1) or decode(latents))
    _, prediction = policy.predict(policy.start("open the drawer", seed=0), observation(), imagine=True)
    assert prediction.future is not None
    assert list(prediction.future.frames) == ["front", "wrist"]
    assert not decoded
    assert prediction.future.frames["front"].shape == prediction.future.frames["wrist"].shape
    assert decoded == [1], "both cameras come from one decoding"


def test_what_does_not_belong_together_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    policy = assemble(release(), **files)
    with pytest.raises(ContractError, match="close the drawer"):
        policy.start("close the drawer", seed=0)
    session = policy.start("open the drawer", seed=0)
    with pytest.raises(ContractError, match="state"):
        policy.predict(session, observation(state=np.zeros(7, np.float32)))
    front = observation().images["front"]
    with pytest.raises(ContractError, match="wrist"):
        policy.predict(session, observation(images={"front": front}))
    with pytest.raises(ContractError, match="expected cameras"):
        policy.predict(session, observation(images={"front": front, "wrist": front, "top": front}))
    other = json.loads(files["stats"].read_text())
    other["action"]["default"] = {name: [*values, 0.0] for name, values in other["action"]["default"].items()}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="another robot"):
        assemble(release(), **{**files, "stats": tmp_path / "other.json"})
    with pytest.raises(ContractError, match="template"):
        assemble(release(template="Do this: {task}"), **files)
    with pytest.raises(CheckpointError, match="another network"):
        assemble(release(config=small(latent_channels=16)), **files)


def test_weights_that_are_not_there_are_what_is_missed_first(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"libero_uncond_2cam224\.pt: no such file"):
        load_released(tmp_path / "libero_uncond_2cam224.pt", vae="no.pth", prompts="no.safetensors")


def test_an_instruction_cannot_be_longer_than_the_context(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="1 to 6"):
        PromptCache(contexts={"long": torch.zeros(7, 16)}, template=RELEASED_TEMPLATE, encoder="tiny", max_tokens=6)
