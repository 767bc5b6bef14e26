"""A robot with LeRobot's interface as a world, on real time.

parts.py    what its numbers mean      reading.py  reads it without making the loop wait
world.py    the `World`                recipe.py   all of it from a TOML table
"""

from actloop.simulation.robot.parts import LeRobot, RobotError, RobotPart
from actloop.simulation.robot.recipe import open_robot, robot_from_toml
from actloop.simulation.robot.world import RobotWorld

__all__ = ["LeRobot", "RobotError", "RobotPart", "RobotWorld", "open_robot", "robot_from_toml"]
