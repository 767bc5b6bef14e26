"""What is sent stays within limits, along the chunk's own path where that can be. Pure.

core.py   the order of things             following.py  one tick: along the path, or off it
limits.py as declared, on the tick grid   route.py      the paces that a path allows, a plan at a time
moving.py the arm, and parts that switch  axes.py, braking.py   what a component may do and still stop in time
"""

from actloop.loop.governor.core import Governed, Governor
from actloop.loop.governor.limits import Limits

__all__ = ["Governed", "Governor", "Limits"]
