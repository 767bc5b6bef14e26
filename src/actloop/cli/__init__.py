"""The command line: `actloop COMMAND`, see `actloop --help`.

__init__.py  main: one line for an error, 130 for Ctrl-C        options.py  every option, described once
commands.py  the commands, thin                                 doctor.py   what this machine can do
operating.py, modelling.py  more of them                        text.py      tables and JSON on the terminal
"""

import os
import sys
from collections.abc import Sequence

from actloop.errors import ActloopError

EXTRAS = {  # the extra that brings a package, for whoever installed the light core alone
    "accelerate": "training",
    "av": "data",
    "diffusers": "wan",
    "einops": "models",
    "ftfy": "wan",
    "gymnasium": "metaworld",
    "matplotlib": "report",
    "metaworld": "metaworld",
    "mujoco": "simulation",
    "msgpack": "serving",
    "websockets": "serving",
    "peft": "training",
    "PIL": "data",
    "pyarrow": "data",
    "rerun": "rerun",
    "safetensors": "models",
    "scipy": "report",
    "torch": "models",
    "sentencepiece": "language",
    "tokenizers": "language",
    "tqdm": "training",
    "transformers": "language",
}
FAILED, INTERRUPTED = 2, 130
DEBUG = "ACTLOOP_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a check said no, 2 an error, 130 interrupted."""
    from actloop.cli.commands import run

    debug = bool(os.environ.get(DEBUG))
    try:
        return run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt as interrupt:
        return _say(str(interrupt) or "interrupted", code=INTERRUPTED)
    except BrokenPipeError:  # `actloop worlds | head` closed the pipe: not an error, but nothing may be flushed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package not in EXTRAS:
            raise
        return _say(f'error: package {package!r} is missing; install it with: pip install "actloop[{EXTRAS[package]}]"')
    except (ActloopError, OSError) as error:
        if debug:
            raise
        return _say(f"error: {error}")


def _say(message: str, *, code: int = FAILED) -> int:
    print(f"actloop: {message}", file=sys.stderr)
    return code
