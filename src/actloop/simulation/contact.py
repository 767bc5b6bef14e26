"""How hard a robot touches what is around it: MuJoCo's contact forces, looked at after every physics step."""

import math

import mujoco
import numpy as np

Force = tuple[float, float, float]  # newtons, world frame


class ContactGauge:
    """The largest force that the robot exerted on one thing since `start`, as `contracts.ForceSensing` defines it.

    The robot is every body that hangs on the same root as the body called `robot`. One thing is what moves as one rigid
    body; of what is fixed, all that hangs on one root. Looking reads what the step has computed, and changes nothing.
    """

    def __init__(self, model: mujoco.MjModel, robot: str) -> None:
        self._model = model
        root, rigid = model.body_rootid, model.body_weldid  # a rigid body is known by its first; 0: fixed to the world
        # Lists: of a few contacts, plain numbers are three times as quick as arrays.
        self._is_robot: list[bool] = (root == root[model.body(robot).id])[model.geom_bodyid].tolist()
        self._thing: list[int] = np.where(rigid > 0, rigid, root)[model.geom_bodyid].tolist()
        self._wrench = np.zeros(6)
        self.peak = 0.0

    def start(self) -> None:
        self.peak = 0.0

    def look(self, data: mujoco.MjData) -> None:
        """Take in the physics step that has just been made."""
        is_robot, on = self._is_robot, dict[int, Force]()
        contacts = data.contact
        axes = contacts.frame
        for index, (one, other) in enumerate(contacts.geom.tolist()):
            if is_robot[one] == is_robot[other]:
                continue
            thing, sign = (self._thing[other], 1.0) if is_robot[one] else (self._thing[one], -1.0)
            x, y, z = on.get(thing, (0.0, 0.0, 0.0))
            more = self._force(data, index, axes[index].tolist())
            on[thing] = (x + sign * more[0], y + sign * more[1], z + sign * more[2])
        self.peak = max([self.peak, *(math.hypot(*force) for force in on.values())])

    def _force(self, data: mujoco.MjData, index: int, axes: list[float]) -> Force:
        """What the first of a pair exerts on the second; `axes` are the contact's normal and two tangents."""
        mujoco.mj_contactForce(self._model, data, index, self._wrench)
        push, along, across, *_ = self._wrench.tolist()
        nx, ny, nz, tx, ty, tz, sx, sy, sz = axes
        return (
            push * nx + along * tx + across * sx,
            push * ny + along * ty + across * sy,
            push * nz + along * tz + across * sz,
        )
