"""`python -m actloop` is the command `actloop`."""

import sys

from actloop.cli import main

if __name__ == "__main__":
    sys.exit(main())
