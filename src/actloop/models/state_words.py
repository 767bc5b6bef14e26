"""The robot's state as words of a prompt, as pi0-FAST has it: one integer from 0 to 255 for each number.

What a language model reads anyway needs no new parts of the network. The integers are digits of uniform bins between
the limits that the robot declares, so that a step is 1/255 of the range.
"""

import numpy as np
from jaxtyping import Float

from actloop.actions.bins import UniformBins, uniform_bins
from actloop.contracts import Space


class StateWords:
    """Says states of one robot."""

    def __init__(self, space: Space) -> None:
        """`space` is that of the states.

        Raises:
            ContractError: a limit is not finite, or a range is empty.
        """
        self._bins: UniformBins = uniform_bins(space.low, space.high)

    def __call__(self, state: Float[np.ndarray, "state"]) -> str:
        """Integers with spaces between them; what lies outside the limits counts as at them.

        Raises:
            ContractError: another number of components, or one that is not finite.
        """
        return " ".join(str(digit) for digit in self._bins.encode(state).tolist())
