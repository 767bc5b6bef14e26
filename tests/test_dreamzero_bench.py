"""What acting with DreamZero computes how often, and the benchmark of its stages."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dreamzero_policy import BLOCK, NARROW, TOWER, body, observation, policy, wan_policy

from actloop.cli.modelling import dreamzero, robot
from actloop.cli.robots import declaration_of, measured
from actloop.data.dataset import LeRobotDataset
from actloop.data.writer import EpisodeWriter
from actloop.errors import ContractError, UnknownNameError
from actloop.models.dreamzero import DreamZeroConfig, SamplerConfig
from actloop.models.dreamzero.embodiments import declare
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.dreamzero.robots import droid
from actloop.models.text import Instructions
from actloop.models.wan import TextConfig, VAEConfig
from actloop.testing import dreamzero_bench
from actloop.testing.dreamzero_bench import SIZES, bench_dreamzero, config_of, memory_of, robot_of


class Counting:
    """Calls of what a policy is made of, by name."""

    def __init__(self, made: DreamZeroPolicy) -> None:
        self.calls: Counter[str] = Counter()
        network = made.model
        named = {
            "times": network.time_embedding,
            "head": network.head,
            **{f"words {i}": block.cross_attn.k for i, block in enumerate(network.blocks)},  # type: ignore[union-attr]
            **{f"tokens {i}": block.self_attn.q for i, block in enumerate(network.blocks)},  # type: ignore[union-attr]
        }
        if made.tower is not None:
            named["tower"] = made.tower.model
            named |= {f"picture {i}": b.cross_attn.k_img for i, b in enumerate(network.blocks)}  # type: ignore[union-attr]
            named["latents"] = made.codec.vae.encoder  # type: ignore[attr-defined]
        for name, module in named.items():
            module.register_forward_hook(self._counts(name))
        made.words._text = self._counted(made.text)  # type: ignore[assignment]

    def _counts(self, name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self.calls[name] += 1

        return hook

    def _counted(self, text: Instructions) -> object:
        calls = self.calls

        class Counted:
            instructions = text.instructions

            def encode(self, instruction: str) -> object:
                calls["text"] += 1
                return text.encode(instruction)

        return Counted()

    def since(self) -> dict[str, int]:
        found = dict(self.calls)
        self.calls.clear()
        return found


@pytest.mark.parametrize("guided", [False, True])
def test_nothing_constant_is_computed_twice(guided: bool) -> None:
    made = wan_policy(window_blocks=2)
    if not guided:
        made._use(SamplerConfig(steps=3, guidance=1.0, solver="euler"))
    counts, layers, evaluations = Counting(made), made.model.config.layers, 3 - 2 * guided
    per_layer = {f"words {i}": 1 for i in range(layers)}
    session = made.start("reach the goal", seed=0)
    assert counts.since() == {"text": 1, **per_layer}, "both branches in one batch"
    again = made.start("reach the goal", seed=1)
    assert not counts.since(), "prompts are kept for all sessions"

    session, _ = made.predict(session, observation(0, made.embodiment))
    found = counts.since()
    frames = made.model.config.window_frames
    assert found.pop("latents") == 1 + frames, "the anchor's, and those of its condition, one step each"
    assert found.pop("tower") == 1
    assert {found.pop(f"picture {i}") for i in range(layers)} == {1}
    assert found == {"head": evaluations, **{f"tokens {i}": 1 + evaluations for i in range(layers)}}, (
        "no times, no words"
    )

    for tick in range(3, made.horizon, 3):
        session = made.absorb(session, observation(tick, made.embodiment))
    assert counts.since() == {"latents": 1}, "a latent is encoded as soon as its frames are there"
    session = made.absorb(session, observation(made.horizon, made.embodiment))
    block = {"latents": 1, **{f"tokens {i}": 1 for i in range(layers)}}
    assert counts.since() == block, "every observed frame is encoded once, whatever the branches"
    made.predict(session, observation(made.horizon, made.embodiment))
    alone = {"head": evaluations, **{f"tokens {i}": evaluations for i in range(layers)}}
    assert counts.since() == alone, "evaluations are all that is left of a request"
    made.predict(again, observation(0, made.embodiment))
    assert counts.since()["tower"] == 1, "each session has an anchor of its own"


def test_a_sampler_counts_its_own_evaluations() -> None:
    made = policy(SamplerConfig(steps=16, guidance=1.0))
    for mode, evaluations in (("all-steps", 16), ("reuse-8", 8), ("reuse-5", 5), ("flash", 1)):
        made.set_mode(mode)
        counts = Counting(made)
        made.predict(made.start("reach the goal", seed=0), observation(0))
        assert counts.calls["head"] == evaluations
        session = made.absorb(made.start("reach the goal", seed=0), observation(0))
        assert dreamzero_bench.evaluations_of(made, session, observation(0)) == evaluations


def test_memory_is_copied_only_where_a_block_is_added() -> None:
    made = policy()
    session, _ = made.predict(made.start("reach the goal", seed=0), observation(0))
    same = made.absorb(session, observation(1))
    assert same.past is session.past
    again, _ = made.predict(session, observation(0))
    assert again.past is session.past
    later, _ = made.predict(session, observation(BLOCK))
    assert later.past is not None
    assert session.past is not None
    assert later.past.session.memory.keys[0].data_ptr() != session.past.session.memory.keys[0].data_ptr()
    assert later.past.session.words is session.past.session.words


# --- the benchmark ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "mode", "evaluations"), [("tiny", "", 16), ("small", "flash", 1)])
def test_every_stage_is_timed(size: str, mode: str, evaluations: int) -> None:
    found = bench_dreamzero(size, repeats=1, threads=1, mode=mode)
    assert (found.evaluations, found.rows, found.mode) == (evaluations, 1, mode)
    config = config_of(size)
    assert found.tokens == config.block_frames * config.frame_tokens + config.block_actions + 1
    assert found.seen == config.frames(config.window_blocks - 1) * config.frame_tokens, "the window is full"
    stages = {stage.stage: stage for stage in found.stages}
    frames = config.block_frames
    wanted = {
        "tile",
        "prompt, all layers",
        f"encode {frames} frames",
        "observe, network",
        "evaluation, network",
        "chunk",
    }
    assert wanted <= set(stages)
    assert all(0 < stage.p50_ms <= stage.p95_ms for stage in found.stages)


def test_a_size_with_all_its_frozen_parts_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = DreamZeroConfig.wan22_5b(**NARROW)
    monkeypatch.setitem(SIZES, "5b", lambda: replace(narrow, first_frame_condition=True, text_tokens=32))
    small_vae = VAEConfig(channels=48, width=1, decoder_width=1, patch=2, residual=True)
    monkeypatch.setitem(dreamzero_bench.VAE, 48, (small_vae, 1000))
    monkeypatch.setattr(dreamzero_bench, "TowerConfig", lambda: TOWER)
    monkeypatch.setattr(dreamzero_bench, "free_bytes", lambda device: 10**12)
    small_text = TextConfig(vocabulary=8, width=16, head_width=4, heads=2, feed_forward=16, layers=1)
    monkeypatch.setattr(dreamzero_bench, "TextConfig", lambda: small_text)
    found = bench_dreamzero("5b", repeats=1, threads=1, text=True, mode="4-steps")
    assert (found.evaluations, found.rows, found.steps) == (4, 2, 4)
    names = [stage.stage for stage in found.stages]
    assert names[0] == "text encoder"
    assert {"image tower", "first-frame condition", "encode 8 frames", "copy of the memory"} <= set(names)
    assert {stage.runs for stage in found.stages} >= {"session", "frame", "anchor", "block", "evaluation", "chunk"}


def test_the_memory_of_a_size_is_added_up_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    held = memory_of(config_of("14b"), torch.bfloat16, rows=2)
    assert held["network"] // 10**8 == 329, "16.48 B parameters"
    assert held["memory of a session"] // 10**9 == 13, "6 GiB a branch, as the spec's"
    monkeypatch.setattr(dreamzero_bench, "free_bytes", lambda device: 10**9)
    with pytest.raises(ContractError, match=r"needs about .* GB in float32 \(network"):
        bench_dreamzero("14b")


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_robot_that_fits(size: str) -> None:
    config = config_of(size)
    stride, side = (1, 8) if config.vocabulary else (4, 16 if size == "5b" else 8)
    pixels = (config.latent_height * side, config.latent_width * side)
    robot_of(config).check(config, temporal_stride=stride, size=pixels)


def test_bad_arguments_are_named() -> None:
    for arguments, message in (
        ({"size": "14B"}, "did you mean '14b'"),
        ({"layers": 41, "size": "14b"}, "has 40; expected 1 to 40"),
        ({"repeats": 0}, "1 or more"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"threads": 0}, "1 or more"),
        ({"size": "tiny", "mode": "flsh"}, "did you mean 'flash'"),
    ):
        with pytest.raises(ContractError, match=message):
            bench_dreamzero(**arguments)  # type: ignore[arg-type]


def test_the_command_prints_stages_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    dreamzero(size="tiny", repeats=1, threads=1, mode="flash")
    printed = capsys.readouterr().out
    assert "1 evaluations in 1 steps a chunk, 1 x 13 tokens each, which see 20 more" in printed
    assert "memory of a session" in printed
    dreamzero(size="tiny", repeats=1, threads=1, json=True)
    assert json.loads(capsys.readouterr().out)["evaluations"] == 16
    dreamzero(size="14b", memory=True, text=True, dtype="bfloat16")
    assert "text encoder" in capsys.readouterr().out


# --- a robot of one's own ---------------------------------------------------------------------------------------------


def test_a_robots_statistics_come_from_its_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = body()
    with EpisodeWriter(tmp_path / "data", embodiment=of) as writer:
        for episode in range(2):
            for tick in range(12):
                obs = observation(tick, of, episode)
                writer.add_frame(obs, np.full(3, 0.01 * tick, np.float32))
            writer.save_episode("reach the goal")
    robot(tmp_path / "data", out=tmp_path / "robot.json", block_actions=6, frame_ticks=3)
    assert "relative to its start: joints; as they are: gripper" in capsys.readouterr().out
    declared = declaration_of(str(tmp_path / "robot.json"))
    assert declared is not None
    assert declared.embodiment == of
    data = LeRobotDataset(tmp_path / "data")
    halves = [(data.states[at : at + 12], data.actions[at : at + 12]) for at in (0, 12)]
    assert declared.known == declare(of, block_actions=6, frame_ticks=3).measured(halves).known
    again = replace(declared, statistics=None, template="do {instruction}")
    (tmp_path / "mine.json").write_text(json.dumps(again.to_dict()))
    robot(tmp_path / "data", out=tmp_path / "again.json", like=str(tmp_path / "mine.json"))
    assert declaration_of(str(tmp_path / "again.json")) == replace(declared, template="do {instruction}")
    for like, message in (
        (droid(), "camera exterior_image_1_left: missing; the dataset has"),
        (replace(again, embodiment=replace(of, control_hz=15.0)), "10 Hz, 'small' is told 15 times"),
    ):
        with pytest.raises(ContractError, match=message):
            measured(tmp_path / "data", like, block_actions=6, frame_ticks=3)
    with pytest.raises(UnknownNameError, match="did you mean 'droid'"):
        declaration_of("driod")
    with pytest.raises(ContractError, match="expected a declaration"):
        declaration_of(str(tmp_path / "nowhere.json"))
