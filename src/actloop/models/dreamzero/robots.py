"""The robots of the released networks, declared; their statistics lie beside the weights (metadata.py).

Names of cameras and parts are those of the released datasets, and the templates are part of what the weights learned.
Limits keep nonsense out; where the release declares none they are a full turn either way.
"""

import math
from collections.abc import Callable

from actloop.contracts import Camera, Embodiment, Part, Space
from actloop.errors import UnknownNameError
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.tiling import Cell, Tiling

VIEW = (176, 320)  # height, width of a cell
CROP = 0.95
SMALL = (160, 320)  # of the whole picture, for the network on Wan2.2
STRIDE, ACTIONS = 3, 24  # released code, whatever the robot's rate

THREE_VIEWS = (
    "A multi-view video shows that a robot {instruction} The video is split into three views: The top view shows the "
    "camera view from the robot's wrist, the bottom-left view shows the camera view from the left exterior camera, and "
    "the bottom-right view shows the camera view from the right exterior camera. During training, one of the two "
    "bottom exterior views may be a black screen (dropped view). The robot {instruction}"
)
HEAD_AND_HANDS = (
    "A multi-view video shows that a robot {instruction} The video is split into four views: The top-left view shows "
    "the camera view from the robot's head, the top-right view shows the camera view from the right hand, the "
    "bottom-left view shows the camera view from the left hand, and the bottom-right view is a black screen (inactive "
    "view). The robot {instruction}"
)
TOP_AND_SIDES = (
    "A multi-view video shows that a robot {instruction} The video is split into four views: The top-left view shows "
    "the top camera, the top-right view shows the right camera, the bottom-left view shows the left camera, and the "
    "bottom-right view is a black screen. The robot {instruction}"
)


def droid(*, small: bool = False) -> RobotDeclaration:
    """DROID: a Franka arm with joint targets at 15 Hz, two exterior cameras and one on the wrist; 5 frames a second.

    The wrist lies above the exterior cameras, each of its columns twice. `small`: for the network on Wan2.2. The
    gripper is 0 open, 1 closed.
    """
    cells = (
        Cell(camera="exterior_image_1_left", row=1, column=0),
        Cell(camera="exterior_image_2_left", row=1, column=1),
        Cell(camera="wrist_image_left", row=0, column=0, wide=2),
    )
    arm = Space(
        parts=(
            Part(
                name="joint_position",
                unit="rad",
                low=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
                high=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
            ),
            Part(name="gripper_position", unit="1", low=(0.0,), high=(1.0,)),
        )
    )
    body = Embodiment(
        name="droid-franka",
        cameras=tuple(Camera(name=cell.camera, height=180, width=320) for cell in cells),
        state=arm,
        action=arm,
        control_hz=15.0,
    )
    return _declared(body, cells, THREE_VIEWS, ("joint_position",), tag="oxe_droid", small=small)


def agibot(*, small: bool = False, camera: tuple[int, int] = (480, 640)) -> RobotDeclaration:
    """AgiBot G1: two arms, hands, head, waist and a base told its velocity, at 30 Hz; a camera on head and hands.

    As the released scripts have it, 10 frames a second and chunks of 0.8 s; the paper says 5 and 1.6 s. `camera`:
    height and width, which the release does not state.
    """
    measured = (
        *_arms("{side}_arm_joint_position", 7),
        *_arms("{side}_effector_position", 1, unit="1", bound=1000.0),
        _part("head_position", "rad", 2 * math.pi, 2),
        _part("waist_position", "rad", 2 * math.pi, 2),
    )
    velocity = Part(name="robot_velocity", unit="m/s", low=(-2.0, -2.0), high=(2.0, 2.0), kind="velocity")
    cells = _corners("top_head", "hand_left", "hand_right")
    body = Embodiment(
        name="agibot-g1",
        cameras=tuple(Camera(name=cell.camera, height=camera[0], width=camera[1]) for cell in cells),
        state=Space(parts=measured),
        action=Space(parts=(*measured, velocity)),
        control_hz=30.0,
    )
    relative = tuple(part.name for part in measured)
    return _declared(body, cells, HEAD_AND_HANDS, relative, tag="agibot", small=small)


def yam(*, small: bool = False, camera: tuple[int, int] = (480, 640)) -> RobotDeclaration:
    """Two YAM arms with grippers at 30 Hz, cameras above and at both sides; all parts are relative.

    Frames and chunks as `agibot`; so is `camera`.
    """
    sides = [
        (_part(f"{side}_joint_pos", "rad", 2 * math.pi, 6), _part(f"{side}_gripper_pos", "1", 1.0, 1))
        for side in ("left", "right")
    ]
    parts = tuple(part for side in sides for part in side)
    cells = _corners(*(f"{place}_camera-images-rgb" for place in ("top", "left", "right")))
    body = Embodiment(
        name="yam-bimanual",
        cameras=tuple(Camera(name=cell.camera, height=camera[0], width=camera[1]) for cell in cells),
        state=Space(parts=parts),
        action=Space(parts=parts),
        control_hz=30.0,
    )
    return _declared(body, cells, TOP_AND_SIDES, tuple(part.name for part in parts), tag="yam", small=small)


ROBOTS: dict[str, Callable[..., RobotDeclaration]] = {"droid": droid, "agibot": agibot, "yam": yam}


def released_robot(name: str, *, small: bool = False) -> RobotDeclaration:
    """The declaration of that name, without statistics.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in ROBOTS:
        raise UnknownNameError("robot", name, ROBOTS)
    return ROBOTS[name](small=small)


def _declared(
    body: Embodiment, cells: tuple[Cell, ...], template: str, relative: tuple[str, ...], *, tag: str, small: bool
) -> RobotDeclaration:
    tiling = Tiling(
        cells=cells,
        rows=2,
        columns=2,
        height=VIEW[0],
        width=VIEW[1],
        crop=CROP,
        resized_to=SMALL if small else None,
    )
    return RobotDeclaration(
        embodiment=body,
        tiling=tiling,
        template=template,
        relative=relative,
        frame_ticks=STRIDE,
        block_actions=ACTIONS,
        tag=tag,
    )


def _corners(first: str, second: str, third: str) -> tuple[Cell, ...]:
    """Upper left, lower left, upper right; the lower right stays black."""
    places = ((first, 0, 0), (second, 1, 0), (third, 0, 1))
    return tuple(Cell(camera=camera, row=row, column=column) for camera, row, column in places)


def _arms(name: str, size: int, *, unit: str = "rad", bound: float = 2 * math.pi) -> tuple[Part, ...]:
    return tuple(_part(name.format(side=side), unit, bound, size) for side in ("left", "right"))


def _part(name: str, unit: str, bound: float, size: int) -> Part:
    return Part(name=name, unit=unit, low=(-bound,) * size, high=(bound,) * size)
