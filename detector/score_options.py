"""Options of the commands that judge images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from manifests.errors import ConfigError

if TYPE_CHECKING:
    from detector.min_area import MinArea


class MinAreaType(click.ParamType):
    """`25` (pixels) or `0.1%` (of the image), as a `MinArea`."""

    name = "PX|%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MinArea:
        from detector.min_area import MinArea

        if isinstance(value, MinArea):
            return value
        try:
            return MinArea.parse(str(value))
        except ConfigError as error:
            self.fail(f"{value!r} is not {error.expected}", param, ctx)


min_area_option = click.option(
    "--min-area",
    type=MinAreaType(),
    default="0",
    show_default=True,
    help="A defective part must show a region above the pixel threshold of this area, too: pixels "
    "of the original (25) or a share of it (0.1%).",
)
