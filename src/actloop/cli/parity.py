"""`actloop parity`: our numbers beside the released ones."""

from collections.abc import Callable, Iterator
from pathlib import Path

from actloop.cli.text import as_json, columns
from actloop.errors import UnknownNameError
from actloop.testing.dreamzero_parity import dreamzero_parity
from actloop.testing.fastwam_parity import Quantity, fastwam_parity
from actloop.testing.openvla_parity import openvla_parity

MODELS: dict[str, Callable[[Path], Iterator[Quantity]]] = {
    "fastwam": fastwam_parity,
    "dreamzero": dreamzero_parity,
    "openvla": openvla_parity,
}


def show_parity(model: str, folder: Path, *, json: bool) -> bool:
    """Print one line per quantity with its difference; True if all are within tolerance.

    Raises:
        UnknownNameError: no such model.
        DataError, CheckpointError: the folder does not hold what it should.
    """
    if model not in MODELS:
        raise UnknownNameError("model", model, MODELS)
    found = list(MODELS[model](folder))
    failed = [quantity.name for quantity in found if not quantity.passed]
    if json:
        print(as_json({"passed": not failed, "quantities": found}))
        return not failed
    rows = [("quantity", "max |difference|", "tolerance", "")]
    for quantity in found:
        verdict = "ok" if quantity.passed else "PAST TOLERANCE"
        note = f"{verdict}; {quantity.note}" if quantity.note else verdict
        rows.append((quantity.name, f"{quantity.difference:.2e}", f"{quantity.tolerance:.0e}", note))
    print(columns(rows, indent=0))
    print(f"{len(found) - len(failed)} of {len(found)} quantities within tolerance")
    return not failed
