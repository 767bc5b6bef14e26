"""Fine-tuning as declared in one file: on the same body, on another, small and through a video codec."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_release import FIXTURE, release, small, write_files

from actloop.cli import main
from actloop.contracts import ActionChunk, Observation
from actloop.data.writer import EpisodeWriter
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.fastwam import FastWAM
from actloop.models.fastwam.weights import BODY
from actloop.models.released import assemble
from actloop.models.wan import PromptCache
from actloop.models.wan.text import RELEASED_TEMPLATE
from actloop.training.finetune import finetune, read_config

pytestmark = pytest.mark.skipif(not (FIXTURE / "tiny_vae.pt").is_file(), reason="the tiny codec is not beside this")

RECIPE = "[recipe]\nsteps = 2\nbatch_size = 2\nprecision = 'no'\nthreads = 1\nnormalization = 'mean_std'\n"
OTHER_BODY = """
[body]
name = "two-joints"
control_hz = 20.0
cameras = [{ name = "front", height = 40, width = 40 }, { name = "wrist", height = 40, width = 40 }]
state.parts = [{ name = "joints", unit = "rad", low = [-3.0, -3.0], high = [3.0, 3.0] }]
action.parts = [{ name = "joints", unit = "rad", low = [-3.0, -3.0], high = [3.0, 3.0] }]
"""


def record(folder: Path, *, state: int, action: int) -> None:
    """Three short episodes with fields named as nobody would guess."""
    rng = np.random.default_rng(0)
    body = release().embodiment if action == 7 else read_body()
    with EpisodeWriter(folder, embodiment=body, codec="libx264") as writer:
        for _ in range(3):
            for tick in range(10):
                images = {name: rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for name in ("front", "wrist")}
                obs = Observation(
                    images=images,
                    state=rng.normal(size=state).clip(-1, 1).astype(np.float32),
                    tick=tick,
                    time=tick / 20,
                )
                writer.add_frame(obs, rng.uniform(-1, 1, action).astype(np.float32))
            writer.save_episode("open the drawer")


def read_body():  # type: ignore[no-untyped-def]
    import tomllib

    from actloop.contracts import embodiment_from_dict

    return embodiment_from_dict(tomllib.loads(OTHER_BODY)["body"])


def rename_fields(folder: Path) -> None:
    """As a stranger's recording: other feature names, and no embodiment."""
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info.pop("actloop", None)
    path.write_text(json.dumps(info))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    policy = assemble(release(), **write_files(FastWAM(small()), folder), dtype=torch.float32)
    save_policy(policy, folder / "policy.safetensors")
    record(folder / "same", state=8, action=7)
    record(folder / "other", state=2, action=2)
    return folder


def recipe(place: Path, text: str) -> Path:
    path = place / "recipe.toml"
    path.write_text(text)
    return path


def test_the_action_half_trains_and_the_video_half_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "init = 'policy.safetensors'\ndata = 'same'\n" + RECIPE + "trainable = 'frozen-video'\n"
    out = place / "frozen.safetensors"
    assert main(["finetune", str(recipe(place, text)), "--out", str(out)]) == 0
    assert "2 steps" in capsys.readouterr().out
    before, after = load_policy(place / "policy.safetensors"), load_policy(out)
    moved = {n for n, t in after.model.state_dict().items() if not torch.equal(t, before.model.state_dict()[n])}
    assert any("mixtures.action.blocks" in name for name in moved)
    assert not [name for name in moved if "mixtures.video" in name]
    assert after.embodiment.identity == before.embodiment.identity
    assert after.action_normalizer == before.action_normalizer, "the same robot keeps its normalisation"


def test_another_robot_starts_with_fresh_ends(place: Path) -> None:
    prompts = place / "other-prompts.safetensors"
    contexts = {"open the drawer": torch.ones(2, 16)}
    PromptCache(contexts=contexts, template=RELEASED_TEMPLATE, encoder="tiny", max_tokens=6).save(prompts)
    text = f"init = 'policy.safetensors'\ndata = 'other'\nprompts = '{prompts.name}'\nvariant = 'idm'\n"
    text += "committed_max = 1\n"
    text += RECIPE + "trainable = 'lora'\n[recipe.lora]\nrank = 2\nalpha = 4\n" + OTHER_BODY
    config = read_config(recipe(place, text))
    result = finetune(config, out=place / "other.safetensors", name="other")
    assert result.steps == 2
    policy = load_policy(place / "other.safetensors")
    assert (policy.embodiment.name, policy.model.config.variant) == ("two-joints", "idm")
    assert (policy.committed_max, policy.continuation) == (1, "trained")
    shapes = {name: tuple(t.shape) for name, t in policy.model.state_dict().items() if name.startswith(BODY)}
    assert shapes["mixtures.action.head.weight"] == (2, 32)
    assert shapes["proprio_encoder.weight"] == (16, 2)
    rng = np.random.default_rng(0)
    obs = Observation(
        images={name: rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for name in ("front", "wrist")},
        state=np.zeros(2, np.float32),
        tick=0,
        time=0.0,
    )
    _, prediction = policy.predict(policy.start("open the drawer", seed=0), obs)
    assert isinstance(prediction.chunk, ActionChunk)
    assert prediction.chunk.actions.shape == (8, 2)


def test_another_robot_must_be_declared(place: Path) -> None:
    text = "init = 'policy.safetensors'\ndata = 'other'\n" + RECIPE
    with pytest.raises(ContractError, match="state"):
        finetune(read_config(recipe(place, text)), out=place / "x.safetensors", name="x")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("data = 'same'", ContractError, "init"),
        ("init = 'policy.safetensors'\ndata = 'same'\nsteps = 3", UnknownNameError, "steps"),
        ("init = 'a", DataError, "TOML"),
        ("init = 'policy.safetensors'\ndata = 'same'\n[recipe]\nstepz = 3", UnknownNameError, "steps"),
        ("init = 'policy.safetensors'\ndata = 'same'\n[recipe]\nsteps = 'many'", ContractError, "expected a int"),
        ("init = 'policy.safetensors'\ndata = 'same'\n[recipe]\ntrainable = 'head'", UnknownNameError, "lora"),
        ("init = 'policy.safetensors'\ndata = 'same'\n[recipe.lora]\nranks = 3", UnknownNameError, "rank"),
        (
            "init = 'policy.safetensors'\ndata = 'same'\n[fields]\ncameras = { front = 'observation.images.fornt' }",
            UnknownNameError,
            "observation.images.front",
        ),
        (
            "init = 'policy.safetensors'\ndata = 'same'\n[fields]\ncameras = { front = 'observation.images.front' }",
            UnknownNameError,
            "wrist",
        ),
        ("init = 'policy.safetensors'\ndata = 'same'\nupright = 'no'", ContractError, "true or false"),
        ("init = 'policy.safetensors'\ndata = 'same'\ngripper = 'robosuite'", ContractError, "body"),
        ("init = 'policy.safetensors'\ndata = 'same'\ncommitted_max = 'all'", ContractError, "whole number"),
        ("init = 'policy.safetensors'\ndata = 'same'\ncommitted_max = 99", ContractError, "left to decide"),
        (
            "init = 'policy.safetensors'\ndata = 'other'\n" + OTHER_BODY.replace("20.0", "30.0"),
            ContractError,
            "recorded at 20 Hz",
        ),
        ("init = 'nothing.safetensors'\ndata = 'same'", Exception, "no such file"),
        ("init = 'policy.safetensors'\ndata = 'nowhere'", DataError, "nowhere"),
    ],
)
def test_a_wrong_declaration_is_named(place: Path, text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        finetune(read_config(recipe(place, text)), out=place / "x.safetensors", name="x")
    assert not (place / "x.safetensors").exists()
