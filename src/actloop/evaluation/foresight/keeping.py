"""The judgement of an arm's imagination, kept in the folder of a run for its page.

RUN/foresight/<arm>.json    what `ForesightReport.to_dict` says of the very weights of that arm
"""

import json
from pathlib import Path
from typing import Any

from actloop.errors import ContractError, DataError
from actloop.evaluation.foresight.report import ForesightReport
from actloop.evaluation.run import read_run, write_json

FOLDER = "foresight"


def keep_foresight(folder: Path, report: ForesightReport) -> Path:
    """Write a judgement into the folder of a run.

    Raises:
        DataError: there is no run in the folder.
        ContractError: none of its arms has these weights, or its robot is another.
    """
    run = read_run(folder)
    if run.embodiment["name"] != report.embodiment:
        reason = f"is of the robot {run.embodiment['name']!r}, what was judged acts on {report.embodiment!r}"
        raise ContractError(f"run {folder}", reason)
    digest = report.policy.get("digest")
    found = [arm.name for arm in run.arms if digest and arm.identity.get("digest") == digest]
    if not found:
        reason = f"none of its arms ({', '.join(arm.name for arm in run.arms)}) has the weights that were judged"
        raise ContractError(f"run {folder}", reason)
    path = folder / FOLDER / f"{found[0]}.json"
    write_json(path, report.to_dict())
    return path


def read_foresight(folder: Path, arm: str) -> dict[str, Any] | None:
    """What was kept for an arm, as `ForesightReport.to_dict` has it; None where nothing was.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FOLDER / f"{arm}.json"
    if not path.exists():
        return None
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("errors", "responses"):
            if not isinstance(plain[name], list):
                raise TypeError(name)
        return {"ranking": None, **plain}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a judgement of foresight ({type(error).__name__}: {error})") from error
