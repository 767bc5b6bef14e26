"""Where the datasets of Open X-Embodiment and LIBERO keep motion, gripper, state, cameras and instruction.

Facts from the released standardisation of OpenVLA and Octo; rates from RDT's list of control frequencies, and those of
Bridge, RT-1, DROID, LIBERO and Language-Table from their papers. Gripper: 1 open, 0 closed, throughout.
"""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

from actloop.data.rlds.dataset import RldsDataset
from actloop.data.rlds.standardise import (
    ACTION,
    MOTION,
    Constant,
    Recipe,
    Rows,
    StatePart,
    Take,
    clipped,
    clipped_inverted,
    decided,
    euler_from_quat_xyzw,
    held,
    inverted,
    zlib_floats,
)
from actloop.errors import ContractError, UnknownNameError

EXTERNAL = "_converted_externally_to_rlds"
AS_RECORDED = "as-recorded"
NATURAL = ("observation/natural_language_instruction",)
BOTH_TEXTS = ("language_instruction", *NATURAL)
COMMANDED = (Take(key="action/world_vector"), Take(key="action/rotation_delta"))
FIRST_SIX = (Take(key="action", start=0, stop=6),)
CLOSING = "action/gripper_closedness_action"
IMAGE = {"primary": "observation/image"}
WITH_WRIST = IMAGE | {"wrist": "observation/wrist_image"}


def _part(name: str, unit: str, key: str, start: int | None = None, stop: int | None = None) -> StatePart:
    return StatePart(name=name, unit=unit, take=Take(key=f"observation/{key}", start=start, stop=stop))


def _compressed(part: StatePart) -> StatePart:
    return replace(part, take=replace(part.take, via=zlib_floats))


def _pose(key: str, rotation: str) -> tuple[StatePart, StatePart]:
    """Position and rotation from the first numbers of one key."""
    stop, unit = (7, "1") if rotation == "quat_xyzw" else (6, "rad")
    return (_part("position", "m", key, 0, 3), _part(rotation, unit, key, 3, stop))


def _whole(key: str, stop: int | None = None) -> tuple[StatePart, ...]:
    return (_part("state", "as recorded", key, 0, stop),)


def _last(via: Callable[[Rows], Rows] | None = None) -> Take:
    return Take(key="action", start=-1, via=via)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="bridge_orig",
            names=("bridge_orig", "bridge_dataset"),
            control_hz=5.0,
            cameras={"primary": "observation/image_0", "secondary": "observation/image_1"},
            motion=(Take(key="observation/state", start=0, stop=6),),
            gripper=_last(decided),
            rotation="euler_xyz_difference",
            unit="m",
            state=(*_pose("state", "euler_xyz"), _part("gripper", "1 open", "state", 6, 7)),
            skip_first=True,  # its action is zero, which taught policies to freeze
            reached=True,
        ),
        Recipe(
            name="fractal20220817_data",
            names=("fractal20220817_data",),
            control_hz=3.0,
            cameras=IMAGE,
            motion=COMMANDED,
            gripper=Take(key=CLOSING, via=held),
            rotation="euler_xyz",
            unit="m",
            state=(
                *_pose("base_pose_tool_reached", "quat_xyzw"),
                _part("gripper_closed", "1 closed", "gripper_closed", 0, 1),
            ),
            instructions=NATURAL,
        ),
        Recipe(
            name="kuka",
            names=("kuka",),
            control_hz=10.0,
            cameras=IMAGE,
            motion=COMMANDED,
            gripper=Take(key=CLOSING, via=held),
            rotation="euler_xyz",
            unit="m",
            state=tuple(
                _compressed(part)
                for part in (
                    *_pose("clip_function_input/base_pose_tool_reached", "quat_xyzw"),
                    _part("gripper_closed", "1 closed", "gripper_closed", 0, 1),
                )
            ),
            instructions=NATURAL,
        ),
        Recipe(
            name="droid",
            names=("droid", "droid_100"),
            control_hz=15.0,
            cameras={
                "primary": "observation/exterior_image_1_left",
                "secondary": "observation/exterior_image_2_left",
                "wrist": "observation/wrist_image_left",
            },
            motion=(Take(key="action_dict/cartesian_velocity"),),
            gripper=Take(key="action_dict/gripper_position", via=inverted),
            rotation="euler_xyz_velocity",
            state=(
                *_pose("cartesian_position", "euler_xyz"),
                _part("gripper_closed", "1 closed", "gripper_position", 0, 1),
            ),
            instructions=("language_instruction", "language_instruction_2", "language_instruction_3"),
            marks_idle=True,
        ),
        Recipe(
            name="libero",
            names=("libero_*",),
            control_hz=20.0,
            cameras=WITH_WRIST,
            motion=FIRST_SIX,
            gripper=_last(clipped_inverted),
            rotation="axis_angle",
            state=(*_pose("state", "axis_angle"), _part("fingers", "m", "state", 6, 8)),
        ),
        Recipe(
            name="language_table",
            names=("language_table", "language_table_*"),
            control_hz=10.0,
            cameras={"primary": "observation/rgb"},
            motion=(Take(key="action", start=0, stop=2), Constant(value=0.0, size=4)),
            gripper=Constant(value=1.0),
            rotation="none",
            unit="m",
            state=(_part("position", "m", "effector_translation", 0, 2),),
            instructions=("observation/instruction",),
        ),
        Recipe(
            name="taco_play",
            names=("taco_play",),
            control_hz=15.0,
            cameras={"primary": "observation/rgb_static", "wrist": "observation/rgb_gripper"},
            motion=(Take(key="action/rel_actions_world", start=0, stop=6),),
            gripper=Take(key="action/rel_actions_world", start=-1, via=clipped),
            rotation="euler_xyz",
            state=(*_pose("robot_obs", "euler_xyz"), _part("gripper", "as recorded", "robot_obs", 7, 8)),
            instructions=NATURAL,
        ),
        Recipe(
            name="jaco_play",
            names=("jaco_play",),
            control_hz=10.0,
            cameras=IMAGE | {"wrist": "observation/image_wrist"},
            motion=(Take(key="action/world_vector"), Constant(value=0.0, size=3)),
            gripper=Take(key=CLOSING, via=held),
            rotation="none",
            state=_whole("end_effector_cartesian_pos"),
            instructions=NATURAL,
        ),
        Recipe(
            name="berkeley_cable_routing",
            names=("berkeley_cable_routing",),
            control_hz=10.0,
            cameras=IMAGE | {"secondary": "observation/top_image", "wrist": "observation/wrist45_image"},
            motion=COMMANDED,
            gripper=Constant(value=0.0),
            rotation="unstated",
            state=_whole("robot_state"),
            instructions=NATURAL,
        ),
        Recipe(
            name="roboturk",
            names=("roboturk",),
            control_hz=10.0,
            cameras={"primary": "observation/front_rgb"},
            motion=COMMANDED,
            gripper=Take(key=CLOSING, via=clipped_inverted),
            rotation="unstated",
            instructions=NATURAL,
        ),
        Recipe(
            name="viola",
            names=("viola",),
            control_hz=20.0,
            cameras={"primary": "observation/agentview_rgb", "wrist": "observation/eye_in_hand_rgb"},
            motion=COMMANDED,
            gripper=Take(key=CLOSING, via=clipped_inverted),
            rotation="unstated",
            state=(
                _part("joints", "rad", "joint_states"),
                _part("gripper_measured", "as recorded", "gripper_states"),
            ),
            instructions=NATURAL,
        ),
        Recipe(
            name="berkeley_autolab_ur5",
            names=("berkeley_autolab_ur5",),
            control_hz=5.0,
            cameras=IMAGE | {"wrist": "observation/hand_image"},
            motion=COMMANDED,
            gripper=Take(key=CLOSING, via=held),
            rotation="euler_xyz",
            unit="m",
            state=(_part("pose", "as recorded", "robot_state", 6, 14),),
            instructions=NATURAL,
        ),
        Recipe(
            name="toto",
            names=("toto",),
            control_hz=30.0,
            cameras=IMAGE,
            motion=COMMANDED,
            gripper=Take(key="action/open_gripper"),
            rotation="unstated",
            state=_whole("state"),
            instructions=NATURAL,
        ),
        Recipe(
            name="stanford_hydra_dataset",
            names=(f"stanford_hydra_dataset{EXTERNAL}",),
            control_hz=10.0,
            cameras=WITH_WRIST,
            motion=FIRST_SIX,
            gripper=_last(inverted),
            rotation="unstated",
            state=(
                _part("position", "m", "state", 0, 3),
                _part("euler_xyz", "rad", "state", 7, 10),
                _part("gripper_measured", "as recorded", "state", -3, -2),
            ),
        ),
        *(
            Recipe(
                name=name,
                names=(f"{name}{EXTERNAL}",),
                control_hz=20.0,
                cameras=WITH_WRIST,
                motion=FIRST_SIX,
                gripper=_last(clipped_inverted),
                rotation="unstated",
                state=_whole("state", 8),
            )
            for name in ("austin_buds_dataset", "austin_sailor_dataset", "austin_sirius_dataset")
        ),
        Recipe(
            name="utaustin_mutex",
            names=("utaustin_mutex",),
            control_hz=20.0,
            cameras=WITH_WRIST,
            motion=FIRST_SIX,
            gripper=_last(clipped_inverted),
            rotation="unstated",
            state=_whole("state", 8),
        ),
        Recipe(
            name="nyu_franka_play_dataset",
            names=(f"nyu_franka_play_dataset{EXTERNAL}",),
            control_hz=3.0,
            cameras=IMAGE | {"secondary": "observation/image_additional_view"},
            motion=(Take(key="action", start=-8, stop=-2),),
            gripper=Take(key="action", start=-2, stop=-1, via=clipped),
            rotation="unstated",
            state=(_part("pose", "as recorded", "state", -6),),
        ),
        Recipe(
            name="furniture_bench_dataset",
            names=(f"furniture_bench_dataset{EXTERNAL}",),
            control_hz=10.0,
            cameras=WITH_WRIST,
            motion=(
                Take(key="action", start=0, stop=3),
                Take(key="action", start=3, stop=7, via=euler_from_quat_xyzw),
            ),
            gripper=_last(clipped_inverted),
            rotation="euler_xyz",
            state=(*_pose("state", "quat_xyzw"), _part("gripper_measured", "as recorded", "state", -1)),
        ),
        Recipe(
            name="iamlab_cmu_pickup_insert",
            names=(f"iamlab_cmu_pickup_insert{EXTERNAL}",),
            control_hz=20.0,
            cameras=WITH_WRIST,
            motion=(
                Take(key="action", start=0, stop=3),
                Take(key="action", start=3, stop=7, via=euler_from_quat_xyzw),
            ),
            gripper=Take(key="action", start=7, stop=8),
            rotation="euler_xyz",
            state=(_part("joints", "rad", "state", 0, 7), _part("gripper_measured", "as recorded", "state", 7, 8)),
        ),
        Recipe(
            name="ucsd_kitchen_dataset",
            names=(f"ucsd_kitchen_dataset{EXTERNAL}",),
            control_hz=2.0,
            cameras=IMAGE,
            motion=FIRST_SIX,
            gripper=Take(key="action", start=6, stop=-1),
            rotation="unstated",
            state=(_part("joints", "rad", "state", 0, 7),),
        ),
        Recipe(
            name="cmu_stretch",
            names=("cmu_stretch",),
            control_hz=10.0,
            cameras=IMAGE,
            motion=FIRST_SIX,
            gripper=Take(key="action", start=6, stop=-1),
            rotation="unstated",
            state=(_part("position", "m", "state", 0, 3), _part("gripper_measured", "as recorded", "state", -1)),
        ),
        Recipe(
            name="dlr_edan_shared_control",
            names=(f"dlr_edan_shared_control{EXTERNAL}",),
            control_hz=5.0,
            cameras=IMAGE,
            motion=FIRST_SIX,
            gripper=_last(inverted),
            rotation="unstated",
            state=_whole("state"),
        ),
        Recipe(
            name="berkeley_fanuc_manipulation",
            names=("berkeley_fanuc_manipulation",),
            control_hz=10.0,
            cameras=WITH_WRIST,
            motion=FIRST_SIX,
            gripper=Take(key="observation/state", start=6, stop=7, via=inverted),  # no command was recorded
            rotation="unstated",
            state=(_part("joints", "rad", "state", 0, 6), _part("gripper_closed", "1 closed", "state", 6, 7)),
        ),
        Recipe(
            name="bc_z",
            names=("bc_z",),
            control_hz=10.0,
            cameras=IMAGE,
            motion=(  # the first of ten future steps
                Take(key="action/future/xyz_residual", start=0, stop=3),
                Take(key="action/future/axis_angle_residual", start=0, stop=3),
            ),
            gripper=Take(key="action/future/target_close", start=0, stop=1, via=inverted),
            rotation="axis_angle",
            unit="m",
            state=(
                _part("position", "m", "present/xyz"),
                _part("axis_angle", "rad", "present/axis_angle"),
                _part("gripper_closed", "1 closed", "present/sensed_close"),
            ),
            instructions=NATURAL,
        ),
        Recipe(
            name="fmb_dataset",
            names=("fmb_dataset", "fmb"),
            control_hz=10.0,
            cameras={
                "primary": "observation/image_side_1",
                "secondary": "observation/image_side_2",
                "wrist": "observation/image_wrist_1",
            },
            motion=FIRST_SIX,
            gripper=Take(key="action", start=6),
            rotation="unstated",
            state=(
                _part("pose", "as recorded", "eef_pose"),
                _part("gripper_measured", "as recorded", "state_gripper_pose"),
            ),
        ),
        Recipe(
            name="dobbe",
            names=("dobbe",),
            control_hz=30.0,
            cameras={"wrist": "observation/wrist_image"},
            motion=FIRST_SIX,
            gripper=Take(key="action", start=6),
            rotation="unstated",
            state=_whole("state"),
        ),
        Recipe(
            name="tdroid",
            names=("tdroid_*",),
            control_hz=5.0,
            cameras={"primary": "observation/static_image"},
            motion=FIRST_SIX,
            gripper=_last(decided),
            rotation="unstated",
            state=(
                _part("pose", "as recorded", "cartesian_position", 0, 6),
                _part("gripper_measured", "as recorded", "gripper_position"),
            ),
        ),
    )
}


def recipe_of(name: str) -> Recipe:
    """The recipe of a dataset, by any of its names, or by the recipe's own.

    Raises:
        UnknownNameError: there is none; suggests the nearest.
    """
    found = _known(name)
    if found is None:
        raise UnknownNameError("recipe", name, {*RECIPES, *(one for r in RECIPES.values() for one in r.names)})
    return found


def _known(name: str) -> Recipe | None:
    fitting = (recipe for recipe in RECIPES.values() if any(fnmatchcase(name, pattern) for pattern in recipe.names))
    return RECIPES.get(name) or next(fitting, None)


def as_recorded(dataset: RldsDataset, *, control_hz: float | None = None) -> Recipe:
    """Every step with its seven action numbers untouched, every camera, and the state where there is one.

    The rate is that of the dataset's own recipe, or must be given.

    Raises:
        ContractError: no rate is known, or the dataset has no `action` of seven numbers.
    """
    steps = dataset.schema.steps
    if "action" not in steps or steps["action"].shape != (ACTION,):
        found = steps["action"].shape if "action" in steps else "no such key"
        raise ContractError(
            f"{dataset.folder}: action",
            f"expected {MOTION} numbers of motion and a gripper, got {found}; write a Recipe",
        )
    known = _known(dataset.name)
    rate = control_hz or (known.control_hz if known else None)
    if rate is None:
        raise ContractError("control_hz", f"is not known for {dataset.name!r}; give the rate it was recorded at")
    key = "observation/state"
    has_state = key in steps and steps[key].kind == "number" and len(steps[key].shape) == 1
    return Recipe(
        name=f"{dataset.name}, as recorded",
        names=(),
        control_hz=rate,
        cameras={camera.removeprefix("observation/"): camera for camera in dataset.cameras},
        motion=FIRST_SIX,
        gripper=_last(),
        rotation="unstated",
        state=_whole("state") if has_state else (),
        instructions=tuple(text for text in BOTH_TEXTS if text in steps),
    )


def chosen(dataset: RldsDataset, name: str = "", *, control_hz: float | None = None) -> Recipe:
    """The recipe for a dataset: the named one, `as-recorded`, or without a name that of the dataset itself.

    Raises:
        UnknownNameError: there is no such recipe.
        ContractError: the dataset does not fit `as-recorded`, or the rate is not above zero.
    """
    if control_hz is not None and not control_hz > 0:
        raise ContractError("control_hz", f"expected a rate above zero, got {control_hz}")
    if name == AS_RECORDED:
        return as_recorded(dataset, control_hz=control_hz)
    recipe = recipe_of(name or dataset.name)
    return recipe if control_hz is None else replace(recipe, control_hz=control_hz)
