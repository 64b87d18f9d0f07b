"""JSON from untrusted files: bounded, without surprises, and with one text per value."""

from __future__ import annotations

import json
from typing import Any

from manifests.errors import SetError

MAX_DEPTH = 24


def dump_json(value: object, *, indent: int | None = None) -> bytes:
    """`value` as ASCII JSON with sorted keys and a trailing newline where it is indented.

    Raises:
        SetError: something JSON does not have, such as NaN, infinity or an array.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(
            value,
            sort_keys=True,
            separators=separators,
            indent=indent,
            ensure_ascii=True,
            allow_nan=False,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise SetError(f"cannot be written as JSON: {error}") from None
    return (text if indent is None else text + "\n").encode("ascii")


def load_json(data: bytes, *, max_bytes: int, path: object = None) -> Any:
    """A JSON value from untrusted bytes.

    Raises:
        SetError: larger than `max_bytes`, nested deeper than 24 levels, a repeated key, NaN or
            infinity, or not JSON at all.
    """
    if len(data) > max_bytes:
        raise SetError("is too large", path=path, expected=f"{max_bytes} bytes", got=len(data))
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise SetError(f"is not valid JSON ({str(error)[:120]})", path=path) from None
    _check_depth(value, path)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


def _check_depth(value: object, path: object) -> None:
    layer: list[object] = [value]
    for _ in range(MAX_DEPTH):
        layer = [
            child
            for item in layer
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not layer:
            return
    raise SetError(f"is nested deeper than {MAX_DEPTH} levels", path=path)
