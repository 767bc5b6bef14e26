"""The two robots of the tabletop: a Cartesian gantry with delta commands, a jointed arm with absolute joint targets."""

from typing import Protocol

import numpy as np
from jaxtyping import Float

from actloop.contracts import Action, Camera, Embodiment, Part, Space, State
from actloop.simulation.tabletop.scene import MAX_OPENING, TIP, Rig, Scene

CONTROL_HZ = 10.0
PERIOD = 1.0 / CONTROL_HZ
STEP = 0.04  # metres per tick that a delta command may ask for
REACH_LOW = np.array([-0.27, -0.22, TIP + 0.003])
REACH_HIGH = np.array([0.27, 0.17, 0.30])
FINGER_STEP = 0.04  # metres per tick that the opening may change by

_FINGER_KP = 600.0
_FINGER_KV = 20.0

# The hand's frame has its origin at the grasp point, so that the body's position is the measured position.
_HAND = f"""
<geom type="box" pos="0 0 0.066" size="0.078 0.020 0.012" mass="0.3" rgba="0.22 0.23 0.26 1"/>
<camera name="wrist" pos="0 -0.085 0.085" xyaxes="1 0 0 0 0.906 0.423" fovy="75"/>
<body name="finger-left" pos="-0.007 0 0">
  <joint name="finger-left" type="slide" axis="-1 0 0" range="0 {MAX_OPENING / 2}" limited="true" armature="0.05"/>
  <geom name="finger-left" type="box" pos="0 0 {(0.054 - TIP) / 2}" size="0.007 0.014 {(0.054 + TIP) / 2}" mass="0.05"
        friction="2 0.05 0.001" rgba="0.95 0.96 0.97 1"/>
</body>
<body name="finger-right" pos="0.007 0 0">
  <joint name="finger-right" type="slide" axis="1 0 0" range="0 {MAX_OPENING / 2}" limited="true" armature="0.05"/>
  <geom name="finger-right" type="box" pos="0 0 {(0.054 - TIP) / 2}" size="0.007 0.014 {(0.054 + TIP) / 2}" mass="0.05"
        friction="2 0.05 0.001" rgba="0.95 0.96 0.97 1"/>
</body>
"""
_FLOATING_HAND = _HAND.replace('<body name="finger', '<body gravcomp="1" name="finger')
_EQUALITY = '<joint joint1="finger-left" joint2="finger-right" polycoef="0 1 0 0 0" solref="0.005 1"/>'
_FINGERS = "".join(
    f'<position name="{name}" joint="{name}" kp="{_FINGER_KP}" kv="{_FINGER_KV}" forcerange="-12 12"/>'
    for name in ("finger-left", "finger-right")
)


def _cameras(image_size: int) -> tuple[Camera, ...]:
    return tuple(Camera(name=name, height=image_size, width=image_size, renderer="ray") for name in ("front", "wrist"))


_OPENING = Part(name="gripper", unit="m", low=(0.0,), high=(MAX_OPENING,))


class Body(Protocol):
    """One robot: what it declares, how a command becomes a setpoint, and how a Cartesian wish becomes a command."""

    rig: Rig
    lead: float  # seconds by which setpoints are fed forward, the servo's own lag
    slack: float  # how far the setpoint may lead the measured joints when a tick begins
    push: float  # newtons that shove the hand a few centimetres

    def embodiment(self, image_size: int) -> Embodiment: ...

    def place(self, scene: Scene, tcp: Float[np.ndarray, "3"], opening: float) -> None:
        """Put the robot there at once."""
        ...

    def sense(self, scene: Scene) -> State: ...

    def setpoint(
        self, current: Float[np.ndarray, "joints"], action: Action
    ) -> tuple[Float[np.ndarray, "joints"], Action]:
        """The joint setpoint one period ahead of `current`, and the action that was really sent."""
        ...

    def command(self, scene: Scene, delta: Float[np.ndarray, "3"], opening: float) -> Action:
        """The action that moves the grasp point by `delta` metres in this tick."""
        ...


class Gantry:
    """A gripper on three rails, told by how much to move and how wide to open."""

    lead = 150.0 / 5000.0
    slack = 0.004
    push = 60.0
    rig = Rig(
        bodies=f"""
<body name="hand" gravcomp="1">
  <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
  <joint name="z" type="slide" axis="0 0 1"/>
  <geom class="paint" type="cylinder" pos="0 0 0.35" size="0.018 0.28" rgba="0.45 0.47 0.52 1"/>
  {_FLOATING_HAND}
</body>""",
        equality=_EQUALITY,
        actuators="".join(
            f'<position name="{name}" joint="{name}" kp="5000" kv="150" forcerange="-80 80"/>' for name in "xyz"
        )
        + _FINGERS,
        joints=("x", "y", "z"),
    )

    def embodiment(self, image_size: int) -> Embodiment:
        return Embodiment(
            name="tabletop-gripper",
            cameras=_cameras(image_size),
            state=Space(
                parts=(Part(name="position", unit="m", low=tuple(REACH_LOW), high=tuple(REACH_HIGH)), _OPENING)
            ),
            action=Space(
                parts=(Part(name="position", unit="m", low=(-STEP,) * 3, high=(STEP,) * 3, kind="delta"), _OPENING)
            ),
            control_hz=CONTROL_HZ,
        )

    def place(self, scene: Scene, tcp: Float[np.ndarray, "3"], opening: float) -> None:
        scene.data.qpos[scene.joint_qpos] = tcp
        scene.data.qpos[scene.finger_qpos] = opening / 2

    def sense(self, scene: Scene) -> State:
        return np.append(scene.tcp, scene.opening).astype(np.float32)

    def setpoint(
        self, current: Float[np.ndarray, "joints"], action: Action
    ) -> tuple[Float[np.ndarray, "joints"], Action]:
        target = np.clip(current + action[:3], REACH_LOW, REACH_HIGH)
        sent = action.copy()
        sent[:3] = np.clip(target - current, -STEP, STEP)
        return target, sent

    def command(self, scene: Scene, delta: Float[np.ndarray, "3"], opening: float) -> Action:
        return np.append(delta, opening).astype(np.float32)


class Arm:
    """Five joints behind the table (base yaw, shoulder, elbow, wrist pitch, wrist roll), told by absolute targets.

    Zero is stretched out level towards the camera. Pitch is positive downwards. The roll keeps the fingers' opening
    along x while the base turns. Targets are followed at no more than `speed` radians per second.
    """

    lead = 40.0 / 1000.0
    slack = 0.01
    push = 100.0
    speed = 2.5
    joints = ("yaw", "shoulder", "elbow", "wrist", "roll")
    low, high = (-1.1, -1.9, 0.3, -1.6, -1.1), (1.1, 0.2, 2.9, 0.7, 1.1)
    base = np.array([0.0, 0.46, 0.25])  # where the shoulder is
    link = 0.39  # metres, upper arm and forearm alike
    drop = 0.13  # metres from the wrist down to the grasp point
    rig = Rig(
        bodies=f"""
<geom class="paint" type="cylinder" pos="0 0.46 0.10" size="0.055 0.10" rgba="0.30 0.32 0.36 1"/>
<body name="base" pos="0 0.46 0.25" quat="0.70710678 0 0 -0.70710678" gravcomp="1">
  <joint name="yaw" axis="0 0 1" armature="0.1"/>
  <geom class="limb" type="cylinder" pos="0 0 -0.02" size="0.045 0.03" mass="0.5" rgba="0.45 0.47 0.52 1"/>
  <body name="upper" gravcomp="1">
    <joint name="shoulder" axis="0 1 0" armature="0.1"/>
    <geom class="limb" type="cylinder" fromto="0 0 0 {link} 0 0" size="0.030" mass="0.5" rgba="0.93 0.93 0.90 1"/>
    <body name="forearm" pos="{link} 0 0" gravcomp="1">
      <joint name="elbow" axis="0 1 0" armature="0.1"/>
      <geom class="limb" type="sphere" size="0.036" mass="0.1" rgba="0.30 0.32 0.36 1"/>
      <geom class="limb" type="cylinder" fromto="0 0 0 {link} 0 0" size="0.024" mass="0.3" rgba="0.93 0.93 0.90 1"/>
      <body name="wrist" pos="{link} 0 0" gravcomp="1">
        <joint name="wrist" axis="0 1 0" armature="0.05"/>
        <geom class="limb" type="sphere" size="0.028" mass="0.1" rgba="0.30 0.32 0.36 1"/>
        <body name="hand" pos="0 0 -{drop}" quat="0.70710678 0 0 0.70710678" gravcomp="1">
          <joint name="roll" axis="0 0 1" armature="0.05"/>
          <geom class="paint" type="cylinder" pos="0 0 0.10" size="0.018 0.03" rgba="0.45 0.47 0.52 1"/>
          {_FLOATING_HAND}
        </body>
      </body>
    </body>
  </body>
</body>""",
        equality=_EQUALITY,
        actuators="".join(
            f'<position name="{name}" joint="{name}" kp="1000" kv="40" forcerange="-120 120"/>' for name in joints
        )
        + _FINGERS,
        joints=joints,
    )

    def embodiment(self, image_size: int) -> Embodiment:
        joints = Part(name="joints", unit="rad", low=self.low, high=self.high)
        space = Space(parts=(joints, _OPENING))
        return Embodiment(
            name="tabletop-arm", cameras=_cameras(image_size), state=space, action=space, control_hz=CONTROL_HZ
        )

    def solve(self, tcp: Float[np.ndarray, "3"]) -> Float[np.ndarray, "5"]:
        """The joint angles that put the grasp point there with the hand upright, elbow up."""
        x, y, z = np.clip(tcp, REACH_LOW, REACH_HIGH) - self.base
        z += self.drop
        yaw = np.arctan2(y, x) + np.pi / 2
        across, apart = np.hypot(x, y), np.sqrt(x * x + y * y + z * z)
        aim, bend = np.arctan2(z, across), np.arccos(min(apart / (2 * self.link), 1.0))
        return np.array([yaw, -(aim + bend), 2 * bend, aim - bend, -yaw])

    def place(self, scene: Scene, tcp: Float[np.ndarray, "3"], opening: float) -> None:
        scene.data.qpos[scene.joint_qpos] = self.solve(tcp)
        scene.data.qpos[scene.finger_qpos] = opening / 2

    def sense(self, scene: Scene) -> State:
        return np.append(scene.data.qpos[scene.joint_qpos], scene.opening).astype(np.float32)

    def setpoint(
        self, current: Float[np.ndarray, "joints"], action: Action
    ) -> tuple[Float[np.ndarray, "joints"], Action]:
        step = self.speed * PERIOD
        return current + np.clip(action[:5] - current, -step, step), action

    def command(self, scene: Scene, delta: Float[np.ndarray, "3"], opening: float) -> Action:
        return np.append(self.solve(scene.tcp + delta), opening).astype(np.float32)


BODIES: dict[str, type[Gantry] | type[Arm]] = {"gripper": Gantry, "arm": Arm}
