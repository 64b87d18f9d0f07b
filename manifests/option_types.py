"""What options of the command lines take beside plain numbers and words."""

from __future__ import annotations

from pathlib import Path

import click


class SizeType(click.ParamType):
    """`256` (square) or `HxW`, as (height, width)."""

    name = "PX|HxW"

    def convert(self, value, param, ctx):
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


class LocationType(click.ParamType):
    """A folder, or the URL of a set, which stays text: a Path would turn `s3://` into `s3:/`."""

    name = "PATH|URL"

    def convert(self, value, param, ctx):
        from manifests.url import is_url

        return value if isinstance(value, Path) or is_url(value) else Path(value)


class RangeType(click.ParamType):
    """`LOW,HIGH` as a pair of numbers."""

    name = "LOW,HIGH"

    def __init__(self, kind: type = float) -> None:
        self.kind = kind

    def convert(self, value, param, ctx):
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

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            items = tuple(self.kind(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list", param, ctx)
        if "" in items or len(set(items)) != len(items):
            self.fail(f"{value!r} has an empty or repeated entry", param, ctx)
        return items
