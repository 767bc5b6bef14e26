"""A plan in free words before the action (RT-2, arXiv 2307.15818, section 4.4).

Instruction: I am hungry. Plan:  pick the red block. Action:  0 128 91 ...
prompt --------------------->|  any words --------->|marker|  valid digits alone
"""

from collections.abc import Sequence

from actloop.errors import ContractError
from actloop.models.backbone import Allowed


class PlanThenAct:
    """An `Allowed`: any words up to the marker, which comes by itself or after `limit` tokens; then what `action` says.

    Raises:
        ContractError: a limit below 1, or a marker without tokens.
    """

    def __init__(self, action: Allowed, *, marker: Sequence[int], limit: int) -> None:
        if limit < 1 or not marker:
            raise ContractError("rt2.plan", f"expected a marker and 1 token or more, got {list(marker)} and {limit}")
        self._action, self._marker, self._limit = action, tuple(marker), limit

    def __call__(self, ids: Sequence[int]) -> Sequence[int] | None:
        _, action = self.parts(ids)
        if action is not None:
            return self._action(action)
        if len(ids) < self._limit:
            return None
        return (self._marker[self._begun(ids)],)

    def parts(self, ids: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """Plan and action of what was decoded so far; no action before the marker is whole."""
        length = len(self._marker)
        for at in range(min(len(ids) - length, self._limit) + 1):
            if tuple(ids[at : at + length]) == self._marker:
                return list(ids[:at]), list(ids[at + length :])
        return list(ids), None

    def _begun(self, ids: Sequence[int]) -> int:
        """How many tokens of the marker were just decoded."""
        return max(n for n in range(len(self._marker)) if tuple(ids[len(ids) - n :]) == self._marker[:n])


def after(begun: Sequence[int], action: Allowed) -> Allowed:
    """Exactly the ids of `begun`, then what `action` says."""

    def following(ids: Sequence[int]) -> Sequence[int] | None:
        if len(ids) < len(begun):
            return (begun[len(ids)],)
        return action(ids[len(begun) :])

    return following
