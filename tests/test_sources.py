"""Models by name: what a file says of its policy, read without opening it."""

import json
from pathlib import Path

import numpy as np
import pytest
import stack_models
from safetensors import safe_open
from safetensors.numpy import save_file

from actloop.contracts import embodiment_to_dict
from actloop.errors import CheckpointError, UnknownNameError
from actloop.stack.sources import card_of, open_policy, shipped_files, source_of, variant_of

BODY = stack_models.Reaching().embodiment


def written(folder: Path, **header: object):
    """A file with such a header."""
    about = {"embodiment": embodiment_to_dict(BODY), **header}
    save_file({"one": np.zeros(1)}, folder / "made.safetensors", {"actloop": json.dumps(about)})
    return source_of("made.safetensors", folder=folder, path="action.model")


@pytest.mark.parametrize("text", ["fast", "optional-idm", "optional-idm?first-frame", "optional-idm?idm+guided"])
def test_a_file_says_what_its_policy_says(text: str) -> None:
    source = source_of(text, folder=Path(), path="action.model", world="tabletop")
    policy = open_policy(source)
    told = policy.describe()
    assert variant_of(source) == {key: told[key] for key in ("variant", "mode") if key in told}
    card = card_of(source)
    assert (card.embodiment, card.horizon) == (policy.embodiment, policy.horizon)


def test_horizon_and_variant_stand_in_the_header_or_in_older_files_in_its_config(tmp_path: Path) -> None:
    both = written(tmp_path, horizon=5, variant="openvla-oft", kind="openvla", config={"horizon": 9, "variant": "x"})
    assert (card_of(both).horizon, variant_of(both)) == (5, {"variant": "openvla-oft"})
    older = written(tmp_path, config={"horizon": 9, "variant": "joint"})
    assert (card_of(older).horizon, variant_of(older)) == (9, {"variant": "joint"})
    kind = written(tmp_path, horizon=5, kind="rt2", config=[])
    assert (card_of(kind).horizon, variant_of(kind)) == (5, {"variant": "rt2"})
    assert variant_of(written(tmp_path, horizon=5)) == {}


def test_functions_and_servers_say_what_they_can() -> None:
    say = lambda name: variant_of(source_of(f"test_evaluation:{name}", folder=Path(), path="action.model"))  # noqa: E731
    assert say("dreamer") == {"variant": "joint"}
    assert variant_of(source_of("stack_models:reaching", folder=Path(), path="action.model")) == {}
    assert variant_of(None) == {}


@pytest.mark.parametrize("ask", [card_of, variant_of])
def test_what_is_no_policy_is_refused_with_the_key(ask, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"action\.model: .*none\.safetensors: no such checkpoint"):
        ask(source_of("none.safetensors", folder=tmp_path, path="action.model"))
    save_file({"one": np.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"action\.model: .*bare\.safetensors: not a policy"):
        ask(source_of("bare.safetensors", folder=tmp_path, path="action.model"))


def test_a_header_without_a_horizon_is_no_policys(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a policy"):
        card_of(written(tmp_path, config={}))


def test_names_that_ship() -> None:
    shipped = shipped_files("tabletop")
    assert {"fast", "no-cotrain"} <= set(shipped)
    for path in shipped.values():
        with safe_open(path, framework="numpy") as file:
            assert "actloop" in file.metadata()
    with pytest.raises(UnknownNameError, match="fast"):
        source_of("fats", folder=Path(), path="action.model", world="tabletop")
    assert shipped_files("nowhere") == {}
