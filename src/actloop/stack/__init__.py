"""A stack file: which model thinks at which layer, where it runs, how often, and what it may cost.

reader.py     TOML -> Stack (declared.py), every key judged        describing.py  its world, limits, identity
building.py   a layer's module, by one plan everywhere            placing.py     here, thread, process, server
opened.py     Stack -> OpenStack.run(task, seed)                  bounded.py     time limits, fallbacks
served.py     one layer behind a port                             calibrating.py thresholds for its checks
"""

from actloop.stack.calibrating import Calibrated, calibrate_stack
from actloop.stack.declared import Stack
from actloop.stack.describing import describe_stack
from actloop.stack.opened import OpenStack, open_stack
from actloop.stack.reader import read_stack
from actloop.stack.served import serve_layer

__all__ = [
    "Calibrated",
    "OpenStack",
    "Stack",
    "calibrate_stack",
    "describe_stack",
    "open_stack",
    "read_stack",
    "serve_layer",
]
