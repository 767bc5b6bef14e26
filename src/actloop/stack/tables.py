"""Typed values out of a TOML table; every error names the file and the key."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from actloop.errors import ContractError, UnknownNameError


class Table:
    """One table of a file.

    Args:
        plain: what TOML says.
        path: file and key of the table, as errors name it.
        known: every key that it may have.

    Raises:
        ContractError: not a table.
        UnknownNameError: a key that means nothing, with the nearest that do.
    """

    def __init__(self, plain: object, path: str, known: Iterable[str]) -> None:
        self.path = path
        if not isinstance(plain, Mapping):
            raise ContractError(path, f"expected a table, got {plain!r}")
        self._plain: Mapping[str, Any] = plain
        names = tuple(known)
        for key in plain:
            if key not in names:
                raise UnknownNameError(path, key, names)

    def __contains__(self, key: str) -> bool:
        return key in self._plain

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}"

    def value(self, key: str) -> Any:
        """What the file says, unjudged.

        Raises:
            ContractError: nothing.
        """
        if key not in self._plain:
            raise ContractError(self.path, f"needs {key!r}")
        return self._plain[key]

    def text(self, key: str, default: str | None = None) -> str:
        found = self._given(key, default)
        if not isinstance(found, str):
            raise ContractError(self.at(key), f"expected text in quotes, got {found!r}")
        return found

    def flag(self, key: str, default: bool) -> bool:
        found = self._given(key, default)
        if not isinstance(found, bool):
            raise ContractError(self.at(key), f"expected true or false, got {found!r}")
        return found

    def whole(self, key: str, default: int, *, least: int) -> int:
        found = self._given(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise ContractError(self.at(key), f"expected a whole number of at least {least}, got {found!r}")
        return found

    def seconds(self, key: str, default: float) -> float:
        """Above 0; `inf` for no limit."""
        found = self._given(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
            raise ContractError(self.at(key), f"expected seconds above 0, got {found!r}")
        return float(found)

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """One text, or a list of them."""
        found = self._given(key, list(default))
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise ContractError(self.at(key), f"expected a list of names in quotes, got {found!r}")
        return tuple(found)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A table of free keys; empty where there is none."""
        found = self._given(key, {})
        if not isinstance(found, Mapping):
            raise ContractError(self.at(key), f"expected a table, got {found!r}")
        return found

    def _given(self, key: str, default: object) -> Any:
        return self.value(key) if default is None else self._plain.get(key, default)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Put file and key before what a constructor says about its argument."""
    try:
        yield
    except UnknownNameError as error:
        raise UnknownNameError(_joined(path, error.path), error.name, error.known) from error
    except ContractError as error:
        kind = type(error) if type(error).__init__ is ContractError.__init__ else ContractError
        raise kind(_joined(path, error.path), error.reason) from error


def _joined(path: str, inner: str) -> str:
    """`file: loop` with `loop.stretch` is `file: loop.stretch`, and with `join.how` it is `file: loop.join.how`."""
    last = path.rpartition(" ")[2].rpartition(".")[2]
    first, _, rest = inner.partition(".")
    inner = rest if first == last else inner
    return f"{path}.{inner}" if inner else path
