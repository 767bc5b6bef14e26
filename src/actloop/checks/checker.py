"""Several checks at one moment, with or without a calibration."""

import math
from collections.abc import Mapping, Sequence

from actloop.checks.calibration import Calibration
from actloop.checks.cameras import FrozenCamera
from actloop.checks.evidence import Check, Evidence, Reading, Score
from actloop.checks.grasp import Grasp
from actloop.checks.pictures import Foresight
from actloop.checks.plans import Disagreement
from actloop.checks.proprioception import Proprioception
from actloop.contracts import Embodiment
from actloop.errors import ContractError, UnknownNameError

PREFIX = "check."


def checks_named(names: Sequence[str], embodiment: Embodiment) -> list[Check]:
    """Fresh checks with their defaults: `proprioception`, `grasp`, `frozen-camera`, `disagreement`, `foresight.CAMERA`.

    Raises:
        UnknownNameError: no check of that name for this body.
    """
    known: list[Check] = [Proprioception(), Grasp(), FrozenCamera(), Disagreement()]
    by_name = {check.name: check for check in [*known, *(Foresight(camera=one.name) for one in embodiment.cameras)]}
    for name in names:
        if name not in by_name:
            raise UnknownNameError("checks", name, by_name)
    return [by_name[name] for name in names]


class Checker:
    """Runs checks in the order given. Uncalibrated it collects: values are raw, thresholds infinite, nothing alarms.

    Raises:
        ContractError: no checks, or two of one name.
        CalibrationMismatch: the calibration was made with other checks, or with others parameters of them.
    """

    def __init__(self, checks: Sequence[Check], calibration: Calibration | None = None) -> None:
        names = [check.name for check in checks]
        if not names or len(set(names)) != len(names):
            raise ContractError("checker", f"checks need distinct names, got {names}")
        self.checks = tuple(checks)
        self.calibration = calibration
        self._scores: dict[str, list[Score]] = {}
        if calibration is not None:
            surroundings = {key: text for key, text in calibration.identity.items() if not key.startswith(PREFIX)}
            calibration.require(surroundings | self.identity)
        self._calibrated = set(names) if calibration is None else set(calibration.normalisers)

    @property
    def identity(self) -> dict[str, str]:
        """`check.NAME` and the check's identity: what the checks add to that of a calibration."""
        return {f"{PREFIX}{check.name}": check.identity for check in self.checks}

    @property
    def scores(self) -> Mapping[str, Sequence[Score]]:
        """What this episode gave so far, by check: what `calibrate` takes, one for each episode that succeeded."""
        return {name: tuple(scores) for name, scores in self._scores.items()}

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Start an episode."""
        self._scores = {check.name: [] for check in self.checks}
        for check in self.checks:
            check.begin(embodiment, instruction, seed=seed)

    def look(self, evidence: Evidence) -> tuple[Reading, ...]:
        """A reading of each check that has something to compare at this moment.

        Raises:
            ContractError: a score that is not finite.
        """
        readings = []
        for check in self.checks:
            score = check.score(evidence)
            if score is None:
                continue
            if not math.isfinite(score.value):
                raise ContractError(f"check.{check.name}", f"expected a finite score, got {score.value}")
            self._scores.setdefault(check.name, []).append(score)
            if check.name in self._calibrated:
                readings.append(self._reading(check.name, score))
        return tuple(readings)

    def _reading(self, name: str, score: Score) -> Reading:
        if self.calibration is not None:
            return self.calibration.reading(name, score)
        return Reading(check=name, raw=score.value, lead=score.lead, value=score.value, threshold=math.inf)
