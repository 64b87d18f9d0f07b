"""`cutswap-det explain`: which normals an image was compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests import command_line as common
from manifests.errors import ConfigError, OutputError
from manifests.option_types import LocationType

if TYPE_CHECKING:
    from manifests.negative_set import NegativeSet


def data_option(help_text: str) -> Callable[[common.Command], common.Command]:
    """`--data`: where normals lie as files."""
    return click.option("--data", type=click.Path(path_type=Path), metavar="DATA", help=help_text)


def set_option(help_text: str) -> Callable[[common.Command], common.Command]:
    """`--set`: the negative set that holds normals."""
    return click.option("--set", "shards", type=LocationType(), metavar="SET|URL", help=help_text)


@contextlib.contextmanager
def opened_set(
    shards: Path | str | None, category: str, *, quiet: bool
) -> Iterator[NegativeSet | None]:
    """The set of a model's category, open; None where no set was given."""
    if shards is None:
        yield None
        return
    from manifests.negative_set import NegativeSet

    folders = common.sets_at(shards, (), quiet=quiet)
    if len(folders) > 1:
        folders = common.chosen(folders, [category], Path(folders[0]).parent)
    with NegativeSet.open(folders[0], check="files") as negative_set:
        yield negative_set


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@data_option("Folder of the normal images, to show their patches.")
@set_option("The negative set, which holds the normals' pixels as well.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Picture: image, heat map, worst patch, and the normals that it was compared with.",
)
@click.option(
    "-k",
    "--neighbours",
    type=click.IntRange(min=1, max=20),
    default=5,
    show_default=True,
    help="How many normal patches.",
)
@common.device_option
@common.megapixel_option
@common.json_option
@common.quiet_option
@common.domain_errors
def explain(
    model: Path,
    image: Path,
    data: Path | None,
    shards: Path | str | None,
    output: Path | None,
    neighbours: int,
    device: str,
    max_megapixels: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say which normals IMAGE was compared with, and show them.

    Of patchcore: the normal patches nearest to the worst patch, each with its image, its place and
    its distance. Of guided-seg: the normal image that guided the segmentation. MODEL keeps names,
    places and digests, but no pixels of patchcore's normals: --data or --set says where they are,
    and another image is never taken for one of them.

    \b
    cutswap-det explain models/part line3/0042.png
    cutswap-det explain models/part line3/0042.png --data part/ -o why.png
    cutswap-det explain models/part line3/0042.png --set shards -k 8 -o why.png
    """
    from detector.describe_explanation import describe_explanation
    from detector.explanation import explain_image, names_of
    from detector.explanation_picture import explanation_picture
    from detector.model import load_model
    from detector.model_folder import find_model
    from detector.normal_pixels import NormalPixels
    from manifests.allocator import keep_freed_memory
    from manifests.images import write_png
    from manifests.weights import resolve_device

    keep_freed_memory()
    if output is not None and output.suffix.lower() != ".png":
        raise ConfigError("the picture is a PNG", path=output, hint="call it FILE.png")
    if output is not None and output.resolve() == image.resolve():
        raise ConfigError(
            "-o would replace the image by a picture of it", path=output, hint="name another file"
        )
    max_pixels = round(max_megapixels * 1e6)
    loaded = load_model(find_model(model), device=resolve_device(device))
    with opened_set(shards, loaded.category, quiet=quiet) as negative_set:
        pixels = NormalPixels(
            loaded.geometry,
            negative_set=negative_set,
            data=data,
            category=loaded.category,
            max_pixels=max_pixels,
        )
        found = explain_image(
            loaded,
            image,
            pixels=pixels,
            normals=names_of(loaded, negative_set),
            count=neighbours,
            max_pixels=max_pixels,
        )
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot be written: {error.strerror or error}", path=output.parent
            ) from error
        write_png(output, explanation_picture(found))
    common.report(
        [found],
        as_json=as_json,
        words=describe_explanation,
        plain=lambda one: one.to_json() | {"picture": None if output is None else str(output)},
    )
    if output is not None and not as_json:
        common.say([f"  picture: {output}"])
