"""The tabletop as MuJoCo sees it: one MJCF built from primitives, and a typed view of its state.

World frame: x to the right of the front camera, y away from it, z up, origin on the table. Metres and radians.

    desk    three blocks, two pads, a cabinet whose drawer slides out towards the camera
    belt    three blocks riding a belt along +x
    cover   three blocks, one of them under a cover that slides along +x
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

HALF = 0.028  # half the edge of a block
COLOURS = {"red": (0.86, 0.13, 0.12), "green": (0.13, 0.66, 0.20), "blue": (0.12, 0.30, 0.90)}
PADS = {"left": (-0.205, -0.04), "right": (0.205, -0.04)}
PAD_HALF = 0.06
PAD_TOP = 0.004
MAX_OPENING = 0.11  # between the inner faces of the fingers
TIP = 0.022  # the finger tips reach this far below the grasp point

DRAWER_FRONT = 0.16  # y of the closed drawer's front; the cabinet stands behind it
DRAWER_TRAVEL = 0.115
DRAWER_FLOOR = 0.006
HANDLE = np.array([0.0, DRAWER_FRONT - 0.030, 0.062])  # grasp point on the closed drawer's handle

BELT_Y = -0.06
BELT_TOP = 0.03
BELT_END = 0.21
BELT_HALF_WIDTH = 0.075
BELT_SPEED = 0.14  # metres per second along +x: a block's width in 0.4 s

COVER_TRAVEL = 0.165
COVER_KNOB = 0.112  # height of the grasp point on the cover's knob

TIMESTEP = 0.005

_HEADER = f"""
<option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="30"/>
<size memory="2M"/>
<visual><global offwidth="640" offheight="640"/></visual>
<default>
  <geom condim="4" friction="1.2 0.01 0.0001" solref="0.01 1"/>
  <default class="paint"><geom contype="0" conaffinity="0" mass="0"/></default>
  <default class="limb"><geom contype="0" conaffinity="0"/></default>
</default>
"""

_TABLE = """
<geom name="table" type="box" pos="0 0.06 -0.02" size="0.46 0.38 0.02" rgba="0.80 0.74 0.64 1"/>
<geom class="paint" type="box" pos="0 -0.325 -0.024" size="0.46 0.006 0.022" rgba="0.45 0.36 0.28 1"/>
<camera name="front" pos="0 -0.50 0.61" xyaxes="1 0 0 0 0.715 0.699" fovy="41.5"/>
"""

_CABINET = f"""
<body name="cabinet" pos="0 {DRAWER_FRONT + 0.004} 0">
  <geom type="box" pos="-0.078 0.065 0.032" size="0.008 0.065 0.032" rgba="0.42 0.38 0.40 1"/>
  <geom type="box" pos="0.078 0.065 0.032" size="0.008 0.065 0.032" rgba="0.42 0.38 0.40 1"/>
  <geom type="box" pos="0 0.065 0.069" size="0.086 0.065 0.005" rgba="0.52 0.48 0.50 1"/>
</body>
<body name="drawer" pos="0 {DRAWER_FRONT} 0">
  <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" limited="true" damping="2"
         frictionloss="0.8"/>
  <geom type="box" pos="0 0.06 0.003" size="0.064 0.058 0.003" mass="0.2" rgba="0.30 0.30 0.36 1"/>
  <geom type="box" pos="0 0 0.030" size="0.070 0.004 0.028" mass="0.1" rgba="0.62 0.36 0.16 1"/>
  <geom type="box" pos="-0.064 0.06 0.022" size="0.004 0.058 0.018" mass="0.05" rgba="0.62 0.36 0.16 1"/>
  <geom type="box" pos="0.064 0.06 0.022" size="0.004 0.058 0.018" mass="0.05" rgba="0.62 0.36 0.16 1"/>
  <geom type="box" pos="0 0.114 0.022" size="0.064 0.004 0.018" mass="0.05" rgba="0.62 0.36 0.16 1"/>
  <geom type="box" pos="0 -0.016 0.030" size="0.010 0.014 0.008" mass="0.02" rgba="0.25 0.22 0.22 1"/>
  <geom name="handle" type="box" pos="0 -0.030 0.054" size="0.013 0.011 0.034" mass="0.05" rgba="0.25 0.22 0.22 1"/>
</body>
"""

_PADS = "".join(
    f'<geom name="pad-{side}" type="box" pos="{x} {y} {PAD_TOP / 2}" size="{PAD_HALF} {PAD_HALF} {PAD_TOP / 2}" '
    f'rgba="{rgba}"/>'
    for (side, (x, y)), rgba in zip(PADS.items(), ("0.97 0.93 0.35 1", "0.75 0.38 0.82 1"), strict=True)
)

_BELT = f"""
<body name="belt" pos="{(BELT_END - 0.60) / 2} {BELT_Y} {BELT_TOP / 2}">
  <joint name="belt" type="slide" axis="1 0 0"/>
  <geom name="belt" type="box" size="{(BELT_END + 0.60) / 2} {BELT_HALF_WIDTH} {BELT_TOP / 2}" mass="1000"
        rgba="0.33 0.34 0.37 1"/>
</body>
<geom class="paint" type="box" pos="{BELT_END + 0.004} {BELT_Y} {BELT_TOP / 2}"
      size="0.004 {BELT_HALF_WIDTH} {BELT_TOP / 2}" rgba="0.93 0.62 0.15 1"/>
"""

_COVER = f"""
<body name="cover" pos="0 0 0">
  <joint name="cover" type="slide" axis="1 0 0" range="0 {COVER_TRAVEL}" limited="true" damping="2"
         frictionloss="0.8"/>
  <geom type="box" pos="0 0 0.072" size="0.046 0.046 0.004" mass="0.15" rgba="0.95 0.95 0.92 1"/>
  <geom type="box" pos="0 -0.050 0.039" size="0.046 0.004 0.037" mass="0.15" rgba="0.62 0.70 0.74 1"/>
  <geom name="knob" type="box" pos="0 0 0.106" size="0.013 0.011 0.030" mass="0.05" rgba="0.25 0.22 0.22 1"/>
</body>
"""

_LAYOUTS = {"desk": _PADS + _CABINET, "belt": _BELT, "cover": _COVER}


def _block(name: str) -> str:
    red, green, blue = COLOURS[name]
    return f"""
<body name="{name}"><freejoint name="{name}"/>
  <geom name="{name}" type="box" size="{HALF} {HALF} {HALF}" mass="0.06" rgba="{red} {green} {blue} 1"/></body>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """The robot's share of the MJCF: bodies, constraints and actuators, and the joints that it is driven by."""

    bodies: str
    equality: str
    actuators: str
    joints: tuple[str, ...]


class Scene:
    """A compiled layout with one robot in it, and named access to what experts, tasks and disturbances ask."""

    def __init__(self, layout: str, rig: Rig) -> None:
        self.layout = layout
        blocks = "".join(_block(name) for name in COLOURS)
        self.model = mujoco.MjModel.from_xml_string(
            f"<mujoco>{_HEADER}<worldbody>{_TABLE}{_LAYOUTS[layout]}{blocks}{rig.bodies}</worldbody>"
            f"<equality>{rig.equality}</equality><actuator>{rig.actuators}</actuator></mujoco>"
        )
        self.data = mujoco.MjData(self.model)
        model = self.model
        self._free = {name: int(model.joint(name).qposadr[0]) for name in COLOURS}
        self._free_dof = {name: int(model.joint(name).dofadr[0]) for name in COLOURS}
        self._bodies = {model.body(index).name: index for index in range(model.nbody)}
        self.joint_qpos = np.array([int(model.joint(name).qposadr[0]) for name in rig.joints])
        self.finger_qpos = np.array([int(model.joint(name).qposadr[0]) for name in ("finger-left", "finger-right")])
        self._slides = {
            name: (int(model.joint(name).qposadr[0]), int(model.joint(name).dofadr[0]))
            for name in ("drawer", "cover", "belt")
            if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name) >= 0
        }
        self._finger_geoms = {int(model.geom(name).id) for name in ("finger-left", "finger-right")}
        self._block_geoms = {int(model.geom(name).id): name for name in COLOURS}

        self._pads = {side: int(model.geom(f"pad-{side}").id) for side in PADS if layout == "desk"}
        belt = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "belt")
        self.belt_geom = int(belt)  # -1 where there is none

    def camera_id(self, name: str) -> int:
        return int(self.model.camera(name).id)

    def body_id(self, name: str) -> int:
        return self._bodies[name]

    @property
    def tcp(self) -> Float[np.ndarray, "3"]:
        """The grasp point, between the finger tips."""
        return np.array(self.data.xpos[self._bodies["hand"]])

    @property
    def opening(self) -> float:
        """Metres between the inner faces of the fingers, as measured."""
        return float(self.data.qpos[self.finger_qpos].sum())

    def block(self, name: str) -> Float[np.ndarray, "3"]:
        start = self._free[name]
        return np.array(self.data.qpos[start : start + 3])

    def block_speed(self, name: str) -> float:
        start = self._free_dof[name]
        return float(np.linalg.norm(self.data.qvel[start : start + 3]))

    def put_block(self, name: str, position: Float[np.ndarray, "3"], yaw: float) -> None:
        """Move a block there at once, upright and at rest."""
        start, dof = self._free[name], self._free_dof[name]
        self.data.qpos[start : start + 3] = position
        self.data.qpos[start + 3 : start + 7] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        self.data.qvel[dof : dof + 6] = 0.0

    def push_block(self, name: str, velocity: Float[np.ndarray, "3"]) -> None:
        start = self._free_dof[name]
        self.data.qvel[start : start + 3] += velocity

    def slide(self, name: str) -> float:
        """How far the drawer or the cover is open, metres."""
        return float(self.data.qpos[self._slides[name][0]])

    def put_slide(self, name: str, out: float) -> None:
        """Open the drawer or the cover by `out` metres at once."""
        position, dof = self._slides[name]
        self.data.qpos[position], self.data.qvel[dof] = out, 0.0

    def pad(self, side: str) -> Float[np.ndarray, "2"]:
        """The middle of a pad, where it is now."""
        return np.array(self.model.geom_pos[self._pads[side], :2])

    def put_pad(self, side: str, place: Float[np.ndarray, "2"]) -> None:
        """Move a pad there at once.

        Its place among what never moves is compiled in: contacts are then looked for without that, in every pair.
        """
        self.model.geom_pos[self._pads[side], :2] = place
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)

    def pads_home(self) -> None:
        """Put the pads where they were before any was moved."""
        for side, geom in self._pads.items():
            self.model.geom_pos[geom, :2] = PADS[side]
        self.model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)

    def run_belt(self) -> None:
        """Hold the belt's surface at its speed and in its place: friction carries what lies on it."""
        if "belt" in self._slides:
            position, dof = self._slides["belt"]
            self.data.qpos[position] = 0.0
            self.data.qvel[dof] = BELT_SPEED

    def touched(self, name: str) -> int:
        """How many fingers touch the block: 2 when it is held."""
        touching = set()
        for pair in self.data.contact.geom:
            first, second = int(pair[0]), int(pair[1])
            if self._block_geoms.get(first) == name and second in self._finger_geoms:
                touching.add(second)
            elif self._block_geoms.get(second) == name and first in self._finger_geoms:
                touching.add(first)
        return len(touching)
