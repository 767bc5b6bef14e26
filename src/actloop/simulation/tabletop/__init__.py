"""The embedded default world: a small language-instructed MuJoCo tabletop of primitives, drawn without OpenGL.

scene.py   the MJCF and its state       bodies.py        the two robots
rays.py    the renderer                 tasks.py         what is asked, and when it is done
experts.py who shows it                 disturbances.py  what goes wrong on purpose
world.py   the `World`
"""

from actloop.errors import MissingDependency

try:
    import mujoco as mujoco
except ModuleNotFoundError as error:
    raise MissingDependency("mujoco", "the tabletop is simulated by it", "pip install 'actloop[simulation]'") from error

from actloop.simulation.tabletop.world import Tabletop

__all__ = ["Tabletop"]
