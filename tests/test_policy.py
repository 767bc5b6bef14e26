"""A trained policy: checkpoint round trip, resume, imagination, and everything that must be refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dots import BODY, dots, picture
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actloop.contracts import (
    Committed,
    Observation,
    Policy,
    WorldActionModel,
)
from actloop.data.cache import CachedEpisodes
from actloop.errors import CheckpointError, ContractError
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.fastwam import FastWAMConfig
from actloop.training.train import TrainConfig, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CachedEpisodes:
    return dots(tmp_path_factory.mktemp("cache"))


def config(variant: str = "fast", steps: int = 60) -> TrainConfig:
    model = FastWAMConfig.tiny(variant=variant, latent_channels=12, denoising_steps=4)
    return TrainConfig(model=model, steps=steps, batch_size=8, validate_every=20)


@pytest.fixture(scope="module")
def trained(data: CachedEpisodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policies") / "fast.safetensors"
    train(config(steps=250), data=data, out=out, name="dot-fast", half=False)
    return out


def observation(x: float = 0.5, tick: int = 3) -> Observation:
    state = np.array([x, 0.5], np.float32)
    return Observation(images={"top": picture(x)}, state=state, tick=tick, time=tick / 10)


def test_it_learns_and_follows_the_instruction_in_physical_units(trained: Path) -> None:
    policy = load_policy(trained, embodiment=BODY)
    assert isinstance(policy, Policy)
    assert isinstance(policy, WorldActionModel)
    mean = {}
    for side in ("left", "right"):
        _, prediction = policy.predict(policy.start(f"go {side}", seed=0), observation())
        assert prediction.chunk.actions.shape == (4, 2)
        assert (prediction.chunk.anchor, prediction.chunk.observed_at) == (3, 0.3)
        mean[side] = prediction.chunk.actions[:, 0].mean()
    assert mean["right"] == pytest.approx(0.05, abs=0.02)
    assert mean["left"] == pytest.approx(-0.05, abs=0.02)


def test_the_log_shows_a_falling_loss(trained: Path) -> None:
    lines = [json.loads(line) for line in trained.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][:2] == [20, 40]
    assert lines[-1]["validation"]["action"] < 0.75 * lines[0]["validation"]["action"]
    assert not trained.with_suffix(".state").exists()


def test_predictions_are_pure_and_replans_draw_fresh_noise(trained: Path) -> None:
    policy = load_policy(trained)
    session = policy.start("go left", seed=5)
    later, first = policy.predict(session, observation())
    _, again = policy.predict(session, observation(), imagine=True)
    assert np.array_equal(first.chunk.actions, again.chunk.actions)
    _, replanned = policy.predict(later, observation())
    assert not np.array_equal(first.chunk.actions, replanned.chunk.actions)


def test_imagined_frames_have_the_cameras_shape_and_time(trained: Path) -> None:
    policy = load_policy(trained)
    session = policy.start("go right", seed=0)
    _, prediction = policy.predict(session, observation(), imagine=True)
    assert prediction.future is not None
    assert prediction.future.frames["top"].shape == (1, 16, 16, 3)
    assert prediction.future.period == pytest.approx(0.2)
    assert policy.predict(session, observation())[1].future is None


def test_a_committed_prefix_comes_back_unchanged(trained: Path) -> None:
    policy = load_policy(trained)
    actions = np.full((2, 2), 0.02, np.float32)
    committed = Committed(actions=actions, fixed=2)
    _, prediction = policy.predict(policy.start("go left", seed=0), observation(), committed=committed)
    np.testing.assert_allclose(prediction.chunk.actions[:2], actions, atol=1e-5)
    long = Committed(actions=np.zeros((4, 2), np.float32), fixed=4)
    with pytest.raises(ContractError, match="leave none"):
        policy.predict(policy.start("go left", seed=0), observation(), committed=long)


def test_a_variant_without_video_says_that_it_cannot_imagine(data: CachedEpisodes, tmp_path: Path) -> None:
    train(config("no-cotrain", 2), data=data, out=tmp_path / "nc.safetensors", name="x")
    policy = load_policy(tmp_path / "nc.safetensors")
    session, prediction = policy.predict(policy.start("go left", seed=0), observation(), imagine=True)
    assert prediction.future is None
    with pytest.raises(ContractError, match="without video"):
        policy.imagine(session, observation(), prediction.chunk)


def test_wrong_observations_are_refused_by_name(trained: Path) -> None:
    policy = load_policy(trained)
    session = policy.start("go left", seed=0)
    good = observation()
    with pytest.raises(ContractError, match=r"observation\.images\.top: missing"):
        policy.predict(session, replace(good, images={}))
    with pytest.raises(ContractError, match=r"expected uint8 \(16, 16, 3\)"):
        policy.predict(session, replace(good, images={"top": np.zeros((8, 8, 3), np.uint8)}))
    with pytest.raises(ContractError, match="expected 2 dimensions"):
        policy.predict(session, replace(good, state=np.zeros(3, np.float32)))
    with pytest.raises(ContractError, match="not finite"):
        policy.predict(session, replace(good, state=np.array([np.nan, 0], np.float32)))


def test_round_trip_is_exact_and_half_precision_is_close(trained: Path, tmp_path: Path) -> None:
    policy = load_policy(trained)
    save_policy(policy, tmp_path / "copy.safetensors")
    copy = load_policy(tmp_path / "copy.safetensors")
    assert copy.digest() == policy.digest()
    assert copy.describe() == policy.describe()
    save_policy(policy, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * trained.stat().st_size
    session = policy.start("go left", seed=0)
    _, full = policy.predict(session, observation())
    _, half = load_policy(tmp_path / "half.safetensors").predict(session, observation())
    np.testing.assert_allclose(half.chunk.actions, full.chunk.actions, atol=2e-3)


def test_a_checkpoint_for_another_body_is_refused(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="trained for 'dot', not for 'other'"):
        load_policy(trained, embodiment=replace(BODY, name="other"))
    with pytest.raises(CheckpointError, match="control_hz"):
        load_policy(trained, embodiment=replace(BODY, control_hz=20.0))


def test_damaged_checkpoints_name_what_is_wrong(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_policy(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable"):
        load_policy(cut)
    tensors = load_file(trained)
    with safe_open(trained, framework="pt") as file:
        metadata = file.metadata()
    key = "model.mixtures.action.head.weight"
    save_file({k: t for k, t in tensors.items() if k != key}, tmp_path / "missing.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"missing mixtures\.action\.head\.weight"):
        load_policy(tmp_path / "missing.safetensors")
    save_file(tensors | {key: torch.zeros(3, 3)}, tmp_path / "shape.safetensors", metadata)
    with pytest.raises(CheckpointError, match="expected shape"):
        load_policy(tmp_path / "shape.safetensors")
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="expected format"):
        load_policy(tmp_path / "foreign.safetensors")


def test_an_interrupted_run_resumes_to_the_same_weights(data: CachedEpisodes, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    train(config(), data=data, out=whole, name="x", half=False)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), data=data, out=cut, name="x", half=False, progress=stop)
    assert not cut.exists()
    train(config(), data=data, out=cut, name="x", half=False, resume=True)
    assert load_policy(cut).digest() == load_policy(whole).digest()


@pytest.mark.parametrize(("array", "path"), [("states", "state"), ("actions", "action")])
def test_a_dataset_with_nan_is_refused_before_training(
    data: CachedEpisodes, tmp_path: Path, array: str, path: str
) -> None:
    broken = CachedEpisodes(data.path)
    values = np.array(getattr(broken, array))
    values[5, 1] = np.nan
    setattr(broken, array, values)
    with pytest.raises(ContractError, match=rf"{path}\.position: not finite"):
        train(config(), data=broken, out=tmp_path / "x.safetensors", name="x")


def test_resuming_another_run_is_refused(data: CachedEpisodes, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(config(), data=data, out=out, name="x", resume=True)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), data=data, out=out, name="x", progress=stop)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(config("joint"), data=data, out=out, name="x", resume=True)
