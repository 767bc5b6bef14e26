"""Contracts: spaces, holding, identity, and errors that survive a process border."""

import json
import pickle

import numpy as np
import pytest

from actloop.contracts import (
    Camera,
    Embodiment,
    Observation,
    Part,
    Space,
    embodiment_from_dict,
    embodiment_to_dict,
)
from actloop.errors import ContractError, MissingDependency, UnknownNameError

STATE = Space(
    parts=(
        Part(name="joints", unit="rad", low=(-1.0, -1.0), high=(1.0, 1.0)),
        Part(name="gripper", unit="m", low=(0.0,), high=(0.1,)),
    )
)
ACTION = Space(
    parts=(
        Part(name="joints", unit="rad", low=(-1.0, -1.0), high=(1.0, 1.0)),
        Part(name="lift", unit="m", low=(-0.1,), high=(0.1,), kind="delta"),
        Part(name="spin", unit="rad/s", low=(-1.0,), high=(1.0,), kind="velocity"),
        Part(name="grip", unit="1", low=(-1.0,), high=(1.0,), neutral=(-0.5,)),
    )
)
BODY = Embodiment(
    name="arm", cameras=(Camera(name="c", height=8, width=8),), state=STATE, action=ACTION, control_hz=20.0
)


def observation(state: list[float]) -> Observation:
    image = np.zeros((8, 8, 3), np.uint8)
    return Observation(images={"c": image}, state=np.array(state, np.float32), tick=0, time=0.0)


def test_hold_before_anything_was_sent_keeps_the_measured_pose() -> None:
    held = BODY.hold(observation([0.3, -0.4, 0.05]), None)
    np.testing.assert_allclose(held, [0.3, -0.4, 0.0, 0.0, -0.5])


def test_hold_keeps_absolute_targets_and_stops_the_rest() -> None:
    last = np.array([0.7, 0.1, 0.05, 0.9, 1.0], np.float32)
    np.testing.assert_allclose(BODY.hold(observation([0.3, -0.4, 0.05]), last), [0.7, 0.1, 0.0, 0.0, 1.0])


def test_an_absolute_part_must_know_where_to_hold() -> None:
    lonely = Space(parts=(Part(name="elbow", unit="rad", low=(-1.0,), high=(1.0,)),))
    with pytest.raises(ContractError, match=r"arm\.action\.elbow"):
        Embodiment(name="arm", cameras=(), state=STATE, action=lonely, control_hz=10.0)


def test_spaces_split_and_name_what_is_wrong() -> None:
    vector = np.array([1, 2, 3, 4, 5], np.float32)
    assert ACTION.split(vector)["spin"] == 4
    assert ACTION.component_names == ["joints.0", "joints.1", "lift", "spin", "grip"]
    with pytest.raises(ContractError, match="expected 5 dimensions"):
        ACTION.check(vector[:4], "action")
    vector[3] = np.nan
    with pytest.raises(ContractError, match=r"action\.spin: not finite"):
        ACTION.check(vector, "action")
    with pytest.raises(ContractError, match="low must be below"):
        Part(name="x", unit="m", low=(1.0,), high=(1.0,))


def test_embodiment_survives_json_and_its_identity_notices_changes() -> None:
    again = embodiment_from_dict(json.loads(json.dumps(embodiment_to_dict(BODY))))
    assert again == BODY
    assert again.identity == BODY.identity
    plain = embodiment_to_dict(BODY)
    plain["control_hz"] = 21.0
    assert embodiment_from_dict(plain).identity != BODY.identity
    with pytest.raises(ContractError, match="not a saved embodiment"):
        embodiment_from_dict({"name": "x"})


@pytest.mark.parametrize(
    "error",
    [
        ContractError("action.x", "bad"),
        UnknownNameError("task", "pik", ["pick", "place"]),
        MissingDependency("mujoco", "no module", "pip install mujoco"),
    ],
)
def test_errors_cross_process_borders(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_unknown_names_suggest_the_nearest() -> None:
    assert "did you mean 'pick-red'?" in str(UnknownNameError("task", "pick-rde", ["pick-red", "open-drawer"]))
    assert "known: a, b" in str(UnknownNameError("task", "zzz", ["b", "a"]))
