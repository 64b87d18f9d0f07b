"""Values of a plan as they come from TOML, each checked for its kind before anything uses it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from manifests.errors import ConfigError

Plain = Mapping[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")
_SHOWN = 60  # characters of a value that was refused


def need(is_met: bool, what: str, expected: object) -> None:
    """Raises ConfigError with `what` unless it is met."""
    if not is_met:
        raise ConfigError(what, expected=expected)


def text_of(table: Plain, key: str, default: str | None = None, *, where: str = "") -> str:
    """A text, with something in it unless the default has not.

    Args:
        default: where the table lacks the key; None where it must not.
        where: of what in the plan, for the message.

    Raises:
        ConfigError: missing, no text, empty, or with a null character.
    """
    if key not in table and default is not None:
        return default
    need(key in table, f"{_of(where)}no {key}", f"{key} = ...")
    value = table[key]
    if not isinstance(value, str) or "\0" in value or (not value and default != ""):
        raise ConfigError(f"{_of(where)}{key} must be text", got=_shown(value))
    return value


def texts_of(
    table: Plain, key: str, default: Sequence[str] = (), *, where: str = ""
) -> tuple[str, ...]:
    """A list of different texts. Raises ConfigError for anything else."""
    values = table.get(key, default)
    is_met = isinstance(values, list | tuple) and all(
        isinstance(value, str) and value for value in values
    )
    if not is_met or len(set(values)) < len(values):
        raise ConfigError(
            f"{_of(where)}{key} must be a list of different texts", got=_shown(values)
        )
    return tuple(values)


def numbers_of(
    table: Plain, key: str, default: Sequence[float], kind: type, *, where: str = ""
) -> tuple:
    """A list of different numbers.

    Args:
        kind: float, for which whole numbers do as well, or int.

    Raises:
        ConfigError: anything else.
    """
    values = table.get(key, default)
    is_met = isinstance(values, list | tuple) and all(is_number(value, kind) for value in values)
    if not is_met or len(set(values)) < len(values):
        raise ConfigError(
            f"{_of(where)}{key} must be a list of different numbers", got=_shown(values)
        )
    return tuple(kind(value) for value in values)


def number_of(table: Plain, key: str, default: float, kind: type, *, where: str = "") -> Any:
    """One number; see `numbers_of`."""
    value = table.get(key, default)
    if not is_number(value, kind):
        name = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{_of(where)}{key} must be {name}", got=_shown(value))
    return kind(value)


def is_number(value: object, kind: type) -> bool:
    """Whether it is a finite number of that kind; truth values are none."""
    if kind is int:
        return type(value) is int
    try:
        # Exactly these types: truth values are whole numbers, too.
        return (
            isinstance(value, int | float) and type(value) in (int, float) and math.isfinite(value)
        )
    except OverflowError:  # a whole number beyond any float
        return False


def tables_of(plain: Plain, key: str) -> list[tuple[str, Plain]]:
    """The named tables below a key. Raises ConfigError for other values and for odd names."""
    tables = plain.get(key, {})
    if not isinstance(tables, Mapping) or not all(isinstance(t, Mapping) for t in tables.values()):
        raise ConfigError(f"{key} of the plan must hold tables", expected=f"[{key}.NAME]")
    for name in tables:
        check_name(key, name)
    return list(tables.items())


def table_list_of(plain: Plain, key: str, *, where: str = "") -> list[Plain]:
    """A list of tables. Raises ConfigError for anything else."""
    tables = plain.get(key, ())
    is_list = isinstance(tables, list | tuple)
    if not is_list or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(
            f"{_of(where)}{key} must be a list of tables",
            expected=f"[[{key}]]" if not where else f"{key} = [{{ ... }}]",
            got=_shown(tables),
        )
    return list(tables)


def options_of(where: str, table: object) -> dict[str, Any]:
    """Options of a command with underscores in their names.

    Raises:
        ConfigError: no table, a name that no option has, or one given twice.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} of the plan must be a table", expected=f"[{where}]")
    options: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        need(_OPTION.fullmatch(name) is not None, f"{where}: {key!r} is no option", "its long name")
        need(name not in options, f"{where}: {key} is given twice", "one of the two spellings")
        options[name] = value
    return options


def check_keys(where: str, table: Plain, known: set[str]) -> None:
    """Raises ConfigError where a table has other keys than those."""
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}", expected=", ".join(sorted(known)))


def check_members(where: str, kind: str, names: Sequence[Any], known: Sequence[Any]) -> None:
    """Raises ConfigError where one of the names is none of the known."""
    for name in names:
        need(name in known, f"{where}: no {kind} {name!r}", ", ".join(map(str, known)))


def check_name(where: str, name: str) -> None:
    """Raises ConfigError for a name that could not stand in a file's name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name", expected="letters, digits, '_', '.', '+' and '-'"
        )


def _of(where: str) -> str:
    return f"{where}: " if where else ""


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]
