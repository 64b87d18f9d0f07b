"""JSON from untrusted files: bounded, without surprises, and with one text per value.

What has fields is decoded into types, so that the first wrong value ends it and nothing is made of
the rest. Open tables are bounded, then decoded by Python's own reader.
"""

from __future__ import annotations

import json
import re
from os import PathLike
from typing import Any, TypeVar

import msgspec

from manifests.errors import SetError

MAX_DEPTH = 24
MAX_TABLE_BYTES = 1 << 20
# Python makes up to some 200 bytes of every two of a file, so its size alone bounds too little.
MAX_VALUES = 2_000_000

_Kind = TypeVar("_Kind")
# The closing quote is optional and nothing is given back, so one pass over hostile text is enough.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_PLAIN = re.compile("[^ -~]")
_FIELDS = re.compile(r"Object (missing required|contains unknown) field `(.*?)`(?: - at `(.*)`)?")


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


def dump_typed(value: object, *, indent: int | None = None) -> bytes:
    """What `dump_json` makes of the same value, from msgspec's types and in a fraction of the time.

    Args:
        value: structs, lists, strings and integers, with open tables as `msgspec.Raw`; no floats,
            which msgspec writes in another form.
        indent: as for `dump_json`.
    """
    data = msgspec.json.encode(value, order="sorted")
    if not data.isascii() or b"\x7f" in data:
        data = _NOT_PLAIN.sub(_escaped, data.decode("utf-8")).encode("ascii")
    return data if indent is None else msgspec.json.format(data, indent=indent) + b"\n"


def load_json(data: bytes, *, max_bytes: int, path: str | PathLike[str] | None = None) -> Any:
    """A JSON value from untrusted bytes.

    Raises:
        SetError: larger than `max_bytes`, of more than two million values, nested deeper than 24
            levels, a repeated key, NaN or infinity, or not JSON at all.
    """
    if len(data) > max_bytes:
        raise SetError("is too large", path=path, expected=f"{max_bytes} bytes", got=len(data))
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES or data.count(b'"') > 4 * MAX_VALUES:
        raise SetError("has too many values", path=path, expected=f"at most {MAX_VALUES}")
    check_depth(data, path=path)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise SetError(f"is not valid JSON ({_line(error)})", path=path) from None


def load_typed(
    data: bytes,
    decoder: msgspec.json.Decoder[_Kind],
    *,
    name: str,
    path: str | PathLike[str] | None = None,
) -> _Kind:
    """A typed value from untrusted bytes.

    Repeated keys are not seen here: compare the bytes with `dump_typed` of the result.

    Args:
        data: bounded by the caller.
        decoder: made once, of structs that forbid unknown fields.
        name: of what is decoded, for errors.

    Raises:
        SetError: not JSON, or not of the type.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SetError(typed_problem(error, name), path=path) from None


def load_table(raw: msgspec.Raw, *, name: str, max_bytes: int = MAX_TABLE_BYTES) -> Any:
    """The value of a field that is open, bounded before an object is made of it.

    Raises:
        SetError: as `load_json`.
    """
    data = bytes(raw)
    if len(data) > max_bytes:
        raise SetError(f"{name} is too large", expected=f"at most {max_bytes} bytes", got=len(data))
    return load_json(data, max_bytes=max_bytes)


def typed_problem(error: Exception, name: str) -> str:
    """What a decoder's error says, as one line about `name`."""
    match = _FIELDS.match(str(error))
    if match is None:
        return f"{name} is not valid JSON of its type ({_line(error)})"
    place = "" if match[3] is None else f" at {ascii(match[3])[1:-1][:60]}"
    field = ascii(match[2])[1:-1][:80]
    if match[1] == "missing required":
        return f"{name} lacks {field}{place}"
    return f"{name} has unknown fields{place}, the first is {field}"


def check_depth(data: bytes, *, path: str | PathLike[str] | None = None) -> None:
    """Refuse JSON nested deeper than 24 levels, before anything is made of it.

    Raises:
        SetError: it is.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", data).translate(None, _NOT_A_BRACKET)
    # Taking out innermost pairs takes a level off all at once. What is sound and flat enough is
    # gone by then; NumPy, which takes longer to import than all else here, is left to the rest.
    pairs = brackets.translate(_SQUARE)
    for _ in range(MAX_DEPTH):
        before, pairs = pairs, pairs.replace(b"[]", b"")
        if not pairs:
            return
        if len(pairs) == len(before):
            break
    import numpy as np

    letters = np.frombuffer(brackets, dtype=np.uint8)
    steps = np.where((letters == ord("[")) | (letters == ord("{")), np.int8(1), np.int8(-1))
    if len(steps) and np.cumsum(steps, dtype=np.int32).max() > MAX_DEPTH:
        raise SetError(f"is JSON nested deeper than {MAX_DEPTH} levels", path=path)


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _line(error: Exception) -> str:
    return ascii(" ".join(str(error).split()))[1:-1][:120]


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
