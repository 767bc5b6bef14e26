"""`actloop compare` and `actloop demo`: run, judge, write the page, print the table."""

import os
import sys
from collections.abc import Iterable

from rich.console import Console

from actloop.cli.text import as_json
from actloop.errors import ContractError, UnknownNameError
from actloop.evaluation.compare import compare
from actloop.evaluation.config import CompareConfig
from actloop.evaluation.progress import ProgressBar
from actloop.evaluation.table import format_table
from actloop.presets import shipped_stacks, shipped_weights
from actloop.simulation.registry import known_worlds


def run_comparison(config: CompareConfig, *, json: bool) -> None:
    """Run what is missing, write the page, and print the results."""
    from actloop.report.page import write_page

    with ProgressBar() as bar:
        comparison = compare(config, bar)
    page = write_page(config.out)
    if json:
        print(as_json(comparison.to_json() | {"page": str(page)}))
        return
    Console().print(format_table(comparison))
    print(f"report: {page}")


def sources(arms: Iterable[str], world: str, asked: str = "--arms") -> dict[str, str]:
    """Where each arm's policy comes from: `NAME=SOURCE`, or the name of one that ships for this world.

    `asked` is the option that it was asked with, for errors.

    Raises:
        UnknownNameError: no such world, or nothing of that name ships for it.
        ContractError: one name twice.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for NAME=module:function of a file at hand
    policies = shipped_weights(world)
    shipped = policies | shipped_stacks(world)
    found: dict[str, str] = {}
    for text in arms:
        name, given, source = text.partition("=")
        if name in found:
            raise ContractError(asked, f"names {name!r} twice; give each policy a name of its own")
        if not given and world not in known_worlds():
            raise UnknownNameError("world", world, known_worlds())
        if not given and not shipped:
            raise ContractError(asked, f"no policy ships for {world!r}; give a file, a stack or module:function")
        if not given and name not in shipped:
            raise UnknownNameError(f"{asked}, shipped for {world!r}", name, shipped)
        found[name] = source if given else shipped[name]
    if not (found or policies):
        raise ContractError(asked, f"no policy ships for {world!r}; name yours, as in --arms mine=FILE")
    return found or policies
