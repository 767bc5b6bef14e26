"""How a DreamZero remembers and samples, by name.

sliding, recomputed, released     what happens past the window
kept-anchor, moved-anchor         see `Watcher`
N-steps, flash                    so many steps; one
reuse-N, dynamic-reuse, all-steps which of them ask the network (N: 5 to 8 of 16)
"""

import re
from dataclasses import dataclass, replace

from actloop.errors import UnknownNameError
from actloop.models.dreamzero.config import MEMORIES
from actloop.models.dreamzero.sampling import Reuse, SamplerConfig
from actloop.models.dreamzero.watching import Anchoring

ANCHORS: dict[str, Anchoring] = {"kept-anchor": "kept", "moved-anchor": "moved"}
MODES = (*MEMORIES, *ANCHORS, "flash", "all-steps", "dynamic-reuse", "N-steps", "reuse-N")
_STEPS, _REUSE = re.compile(r"(\d+)-steps?"), re.compile(r"reuse-([5-8])")


@dataclass(frozen=True, slots=True)
class Manner:
    """All that a mode can change."""

    memory: str
    anchoring: Anchoring
    sampler: SamplerConfig

    def changed(self, mode: str) -> "Manner":
        """As names joined by `+` say, one after the other.

        Raises:
            UnknownNameError: no such mode.
            ContractError: modes that do not go together.
        """
        found = self
        for name in mode.split("+"):
            if name in MEMORIES:
                found = replace(found, memory=name)
            elif name in ANCHORS:
                found = replace(found, anchoring=ANCHORS[name])
            else:
                found = replace(found, sampler=_sampler(name, found.sampler))
        return found


def _sampler(name: str, sampler: SamplerConfig) -> SamplerConfig:
    """A sampler changed as a mode's name says."""
    steps, reuse = _STEPS.fullmatch(name), _REUSE.fullmatch(name)
    if name == "flash":
        return SamplerConfig.flash()
    if steps is not None:
        return replace(sampler, steps=int(steps[1]), reuse=Reuse())
    if reuse is not None:
        return replace(sampler, reuse=Reuse.released(int(reuse[1])))
    known = {"all-steps": Reuse(), "dynamic-reuse": Reuse.dynamic()}
    if name not in known:
        raise UnknownNameError("mode", name, MODES)
    return replace(sampler, reuse=known[name])
