"""What each variant offers as a policy: modes, futures of a given chunk, and the work that is done only once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dots import dots, picture

from actloop.contracts import ActionChunk, Observation
from actloop.errors import ContractError, UnknownNameError
from actloop.evaluation.arms import Arm
from actloop.loop.latency import LatencyProfile
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo
from actloop.presets import shipped_weights
from actloop.training.samples import LatentSamples
from actloop.training.train import TrainConfig


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> LatentSamples:
    model = FastWAMConfig.tiny(latent_channels=12, denoising_steps=2)
    return LatentSamples(dots(tmp_path_factory.mktemp("dots")), TrainConfig(model=model))


def policy_of(samples: LatentSamples, variant: str) -> FastWAMPolicy:
    from dataclasses import replace

    torch.manual_seed(0)
    model = FastWAM(replace(samples.model_config(), variant=variant))
    with torch.no_grad():
        model.video.head.head.weight.normal_(std=0.1)
    return samples.policy(model, PolicyInfo(name=variant, training={}))


def observation(x: float = 0.5) -> Observation:
    state = np.array([x, 0.5], np.float32)
    return Observation(images={"top": picture(x)}, state=state, tick=3, time=0.3)


def test_optional_idm_switches_between_its_two_modes(samples: LatentSamples, tmp_path: Path) -> None:
    policy = policy_of(samples, "optional-idm")
    session = policy.start("go left", seed=0)
    _, imagined = policy.predict(session, observation())
    policy.set_mode("first-frame")
    _, plain = policy.predict(session, observation())
    assert not np.allclose(imagined.chunk.actions, plain.chunk.actions)
    _, asked = policy.predict(session, observation(), imagine=True)
    assert asked.future is not None, "asked to, it still imagines"
    np.testing.assert_array_equal(asked.chunk.actions, plain.chunk.actions)
    with pytest.raises(UnknownNameError, match="first-frame"):
        policy.set_mode("first")
    with pytest.raises(ContractError, match="one way"):
        policy_of(samples, "idm").set_mode("first-frame")

    save_policy(policy, tmp_path / "optional.safetensors")
    modes = [load_policy(tmp_path / "optional.safetensors", mode=mode) for mode in ("", "first-frame")]
    profile = LatencyProfile.constant(10)
    arms = [Arm(name="a", source="", horizon=4, identity=mode.describe(), measured=profile) for mode in modes]
    assert [arm.variant for arm in arms] == ["optional-idm", "optional-idm, first-frame"]
    assert [arm.place for arm in arms] == ["online", "in training only"]


def test_only_an_action_conditioned_future_follows_the_chunk_it_is_given(samples: LatentSamples) -> None:
    for variant, follows in (("action-conditioned", True), ("fast", False), ("idm", False)):
        policy = policy_of(samples, variant)
        session = policy.start("go left", seed=0)
        _, prediction = policy.predict(session, observation(), imagine=True)
        chunk = prediction.chunk
        other = ActionChunk(
            actions=np.clip(-chunk.actions - 0.05, -0.1, 0.1).astype(np.float32),
            anchor=chunk.anchor,
            period=chunk.period,
            observed_at=chunk.observed_at,
        )
        futures = [policy.imagine(session, observation(), asked) for asked in (chunk, other)]
        assert [future.follows_chunk for future in futures] == [follows, follows]
        same = np.array_equal(futures[0].frames["top"], futures[1].frames["top"])
        assert same != follows, variant
        assert prediction.future is not None
        assert prediction.future.follows_chunk == follows


def test_a_chunk_of_another_length_cannot_be_imagined(samples: LatentSamples) -> None:
    policy = policy_of(samples, "action-conditioned")
    short = ActionChunk(actions=np.zeros((2, 2), np.float32), anchor=3, period=0.1, observed_at=0.3)
    with pytest.raises(ContractError, match="expected 4 actions"):
        policy.imagine(policy.start("go left", seed=0), observation(), short)


def test_a_prompt_is_computed_once_and_a_first_frame_once_per_observation(
    samples: LatentSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(samples, "fast")
    counts = {"text": 0, "see": 0}
    policy.model.action.text_embedding.register_forward_hook(
        lambda module, inputs, output: counts.__setitem__("text", counts["text"] + (inputs[0].shape[1] > 8))
    )
    see = policy.model.see
    monkeypatch.setattr(policy.model, "see", lambda *given: counts.__setitem__("see", counts["see"] + 1) or see(*given))
    session = policy.start("go left", seed=0)
    for _ in range(3):
        session, _ = policy.predict(session, observation(), imagine=True)
    assert counts == {"text": 1, "see": 3}, "the 16 words once; each picture once, for the chunk and its future alike"
    policy.start("go right", seed=0)
    assert counts["text"] == 2


def test_both_modes_of_what_ships_can_be_named() -> None:
    shipped = shipped_weights("tabletop")
    if "optional-idm" in shipped:
        assert shipped["optional-idm-first-frame"] == shipped["optional-idm"] + "?first-frame"
    assert all(Path(source.partition("?")[0]).is_file() for source in shipped.values())
