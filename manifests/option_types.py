"""What options of the command lines take beside plain numbers and words."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import click


class SizeType(click.ParamType):
    """`256` (square) or `HxW`, as (height, width)."""

    name = "PX|HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        try:
            sides = tuple(int(part) for part in parts)
        except ValueError:
            sides = ()
        if len(sides) not in (1, 2):
            self.fail(f"{value!r} is neither a number of pixels nor HEIGHTxWIDTH", param, ctx)
        return (sides[0], sides[-1])


_UNITS = (
    {"": 1}
    | {
        prefix + suffix: base**power
        for power, prefix in enumerate("KMGT", 1)
        for base, suffix in ((1000, ""), (1000, "B"), (1024, "I"), (1024, "IB"))
    }
    | {"B": 1}
)


class BytesType(click.ParamType):
    """`4GB`, `500MB`, `2GiB`: bytes, in steps of 1000, or of 1024 with an i."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", str(value).strip(), re.ASCII)
        unit = None if match is None else _UNITS.get(match[2].upper())
        if match is None or unit is None:
            self.fail(f"{value!r} is no size such as 500MB, 4GB or 4GiB", param, ctx)
        return int(Decimal(match[1]) * unit)


class LocationType(click.ParamType):
    """A folder, or the URL of a set, which stays text: a Path would turn `s3://` into `s3:/`."""

    name = "SET|URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        from manifests.url import is_url

        return value if isinstance(value, Path) or is_url(value) else Path(value)


class OutputType(click.Path):
    """A folder to write to, or a URL, which stays text."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)
        self.name = "PATH|URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from manifests.url import is_url

        return value if is_url(value) else super().convert(value, param, ctx)


class LocalType(click.ParamType):
    """A path where no URL will do; a URL is refused, because as a path it would lead nowhere.

    Args:
        way_out: what to do with a URL.
    """

    name = "PATH"

    def __init__(self, way_out: str) -> None:
        self.way_out = way_out

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from manifests.url import is_url, redacted

        if is_url(value):
            self.fail(f"{redacted(value)} is a URL; {self.way_out}", param, ctx)
        return Path(value)


LOCAL_SET = LocalType("fetch it first (cutswap-gen pull URL --out ...)")
LOCAL_RECIPE = LocalType("download it first")


class FolderType(click.ParamType):
    """A folder to read; no name at all is refused, because a Path makes the current folder of it.

    That it is there is for its reader to say.
    """

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("the name of the folder is empty; name one, or leave this out", param, ctx)
        return Path(value)


FOLDER = FolderType()


class DigestType(click.ParamType):
    """The SHA-256 of a set or a model, as it is printed; in capitals and with spaces around too."""

    name = "DIGEST"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        digest = value.strip().lower()
        if re.fullmatch("[0-9a-f]{64}", digest) is None:
            got = f"{len(digest)} characters" if len(digest) != 64 else "others"
            self.fail(
                f"takes all 64 hex characters of a digest, as inspect prints it (got {got})",
                param,
                ctx,
            )
        return digest


DIGEST = DigestType()


class RangeType(click.ParamType):
    """`LOW,HIGH` as a pair of numbers."""

    name = "LOW,HIGH"

    def __init__(self, kind: type = float) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple:
        if isinstance(value, tuple):
            return value
        try:
            low, high = (self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two numbers LOW,HIGH", param, ctx)
        if low > high:
            self.fail(f"{value!r}: the first number must not exceed the second", param, ctx)
        return (low, high)


class ListType(click.ParamType):
    """Comma-separated values of one kind, as a tuple."""

    def __init__(self, kind: type = str, name: str = "A,B,...") -> None:
        self.kind = kind
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple:
        if isinstance(value, tuple):
            return value
        try:
            items = tuple(self.kind(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list", param, ctx)
        if "" in items or len(set(items)) != len(items):
            self.fail(f"{value!r} has an empty or repeated entry", param, ctx)
        return items
