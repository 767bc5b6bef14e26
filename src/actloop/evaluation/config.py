"""What a comparison compares, and the folder that remembers it.

OUT/run.json               the resolved configuration, the arms' identities, the frozen latency profiles
OUT/episodes.jsonl         one finished episode per line
OUT/calibrations/<arm>/<condition>.json               thresholds of its checks, and what they hold for
OUT/events/<arm>/<condition>/<task>-<seed>.jsonl      what the loop did, byte-identical when repeated
OUT/videos/<arm>/<task>-<seed>.mp4                    what was seen, beside what was imagined
OUT/results.json           every number of the report
OUT/report.html            the page
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from actloop.errors import ActloopError, ContractError, UnknownNameError
from actloop.simulation.faults import parse_faults

LATER = ("disturb", "rescue", "rescue_seconds", "rescue_after", "until_decided", "batch", "force_limit")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class RunMismatchError(ActloopError):
    """The folder holds another run: continuing would mix episodes that are not comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """One comparison: every arm meets the same tasks and seeds under the same conditions.

    `arms` maps a name to a checkpoint, to a stack file (`.toml`), whose loop settings then stand, or to
    `module:function`, a function without arguments that returns a policy; `PATH?first-frame` acts without imagining, of
    a checkpoint that learned both. `tasks` are names, skills or groups of the world, all of them where empty; each runs
    with the seeds `seed`, `seed + 1`, ... `latency` is the main condition and `sweep` further ones: "measured" (each
    arm's own, on this machine), milliseconds ("190"), the name of a published profile, or "published" (each variant its
    own).
    `clock` "paused" stops the world while the model thinks, as most benchmarks do. `execute_horizon` is how many
    actions run before the next chunk takes over, the loop's default where None. `videos` is the number of episodes
    per arm and task that are filmed.

    `workers` and `ray`, the address of a cluster, change the speed and nothing else. `batch` is how many rows the
    answers of a policy are computed with, those of several episodes together where there are several: it decides the
    last bits, so a folder keeps its number, and with it the episodes are the same on one worker as on many.

    `faults` disturb every episode, as `displace@15-30`. `disturb` adds, to every latency, the same condition disturbed,
    one for each `FAULT[,FAULT...]` or `NAME=FAULT[,FAULT...]`, on the same seeds. In place of a latency "paused" stops
    the world for that condition alone.

    `rescue` "expert" lets the world's expert take over for `rescue_seconds` and hand back, where the ladder asks for a
    human or limits have stopped the robot for a second; with `rescue_after`, also where somebody who watches would have
    waited for that share of the time limit. `until_decided` stops after the first seed at which a sequential test has
    told the two arms apart. `force_limit` is in newtons: episodes with a harder contact are counted, and nothing is
    stopped.

    Stacks whose checks bring no calibration are calibrated before
    the first episode, for each condition, on `calibration_episodes` of each task without faults, so that a share
    `alpha` of the episodes that succeed raises an alarm. `failure_cost` is what a failed episode costs, in seconds of
    computing, and `compute_budget` how many seconds of computing per second of robot time there are: the answer then
    rests on them too.
    """

    out: Path
    arms: Mapping[str, str]
    world: str = "tabletop"
    world_options: Mapping[str, object] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    episodes: int = 5
    seed: int = 0
    latency: str = "measured"
    sweep: tuple[str, ...] = ("0", "190", "600")
    clock: Literal["virtual", "paused"] = "virtual"
    execute_horizon: int | None = None
    baseline: str = ""
    videos: int = 1
    workers: int = 2
    faults: tuple[str, ...] = ()
    alpha: float = 0.1
    calibration_episodes: int = 20
    failure_cost: float | None = None
    compute_budget: float | None = None
    disturb: tuple[str, ...] = ()
    rescue: Literal["", "expert"] = ""
    rescue_seconds: float = 2.0
    rescue_after: float | None = None
    until_decided: bool = False
    force_limit: float | None = None
    batch: int = 1
    ray: str = ""

    def __post_init__(self) -> None:
        if not self.arms:
            raise ContractError("compare.arms", "nothing to compare; name at least one checkpoint")
        for name in self.arms:
            if not PLAIN_NAME.fullmatch(name):
                raise ContractError("compare.arms", f"{name!r} names a folder: letters, digits and . _ + - only")
        if self.baseline and self.baseline not in self.arms:
            raise ContractError("compare.baseline", f"{self.baseline!r} is none of the arms {sorted(self.arms)}")
        if self.clock not in ("virtual", "paused"):
            raise ContractError("compare.clock", f"expected 'virtual' or 'paused', got {self.clock!r}")
        for name, least in (("episodes", 1), ("workers", 1), ("batch", 1), ("videos", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ContractError(f"compare.{name}", f"expected at least {least}, got {getattr(self, name)}")
        for name in ("failure_cost", "compute_budget"):
            given = getattr(self, name)
            if given is not None and not 0 < given < float("inf"):
                raise ContractError(f"compare.{name}", f"expected seconds above 0, got {given}")
        if self.force_limit is not None and not 0 < self.force_limit < float("inf"):
            raise ContractError("compare.force_limit", f"expected newtons above 0, got {self.force_limit}")
        if not 0 < self.alpha < 1:
            raise ContractError("compare.alpha", f"expected a share between 0 and 1, got {self.alpha}")
        if self.calibration_episodes < 1:
            raise ContractError("compare.calibration_episodes", f"expected at least 1, got {self.calibration_episodes}")
        parse_faults(self.faults)
        self._check_rescue()
        if self.until_decided and len(self.arms) != 2:
            reason = f"a sequential test needs two arms, got {len(self.arms)}"
            raise ContractError("compare.until_decided", reason)
        if self.execute_horizon is not None and self.execute_horizon < 1:
            raise ContractError("compare.execute_horizon", f"expected at least 1, got {self.execute_horizon}")

    def _check_rescue(self) -> None:
        if self.rescue not in ("", "expert"):
            raise UnknownNameError("compare.rescue", self.rescue, ("expert",))
        if not 0 < self.rescue_seconds < float("inf"):
            raise ContractError("compare.rescue_seconds", f"expected seconds above 0, got {self.rescue_seconds}")
        if self.rescue_after is not None and not 0 < self.rescue_after < 1:
            raise ContractError("compare.rescue_after", f"expected a share between 0 and 1, got {self.rescue_after}")
        if self.rescue_after is not None and not self.rescue:
            raise ContractError("compare.rescue_after", "says when to rescue, but not who does; ask for a rescue too")

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.episodes)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; what decides the results and nothing else (neither the folder nor who does the work)."""
        plain = asdict(self)
        for name in ("out", "workers", "ray"):
            del plain[name]
        for name in LATER:  # folders that were begun without them can still be continued
            if plain[name] == DEFAULTS[name]:
                del plain[name]
        normal: dict[str, object] = json.loads(json.dumps(plain, default=str))
        return normal


DEFAULTS = {field.name: field.default for field in fields(CompareConfig)}


def differences(before: Mapping[str, object], after: Mapping[str, object], path: str = "") -> list[str]:
    """What differs between two JSON-like mappings, one readable line each."""
    found = []
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        where = f"{path}.{key}" if path else key
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, where)
        elif old != new:
            found.append(f"{where}: the folder has {json.dumps(old)}, asked for {json.dumps(new)}")
    return found
