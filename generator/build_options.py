"""The options of `build` that make up a set's recipe, and the config they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests import command_line as common
from manifests.option_types import FOLDER, ListType, RangeType, SizeType
from manifests.progress import progress_maker

if TYPE_CHECKING:
    from generator.config import BuildConfig
    from generator.textures import Textures
    from manifests.images import Geometry

# The paper's numbers, applied where the user typed nothing else.
PRESETS: dict[str, dict] = {
    "paper": {"network": "vgg16", "levels": (4, 9, 16, 23, 30), "clusters": 4, "cluster": "max"},
}

# Options that are not called like the field of BuildConfig that they set or belong to.
_FIELDS = {
    "area": "area_frac",
    "clusters": "n_clusters",
    "feather": "feather_px",
    "preset": "network",
    "scar_angle": "scar_angle_deg",
    "scar_length": "scar_length_px",
    "scar_width": "scar_width_px",
    "textures": "donors",
    "weights": "network",
}

_FIRST = (
    common.seed_option,
    click.option(
        "--policies",
        type=ListType(),
        default="swap,scar",
        show_default=True,
        help="Kinds of negatives: swap and scar start where the image is salient; random-swap, "
        "random-scar, cutpaste and cutpaste-scar start anywhere, as often, and need no network. "
        "saliency-perlin and perlin mix other images in, where it is salient or anywhere "
        "(cutswap-gen policies).",
    ),
    click.option("--repeats", default=1, show_default=True, help="Negatives per kind and level."),
    click.option(
        "--preset", type=click.Choice(list(PRESETS)), help="paper: VGG16 and its numbers."
    ),
    click.option(
        "--noop-tolerance",
        default=1.0,
        show_default=True,
        help="Redraw patches that differ by less than this many grey levels.",
    ),
)
_SALIENCY = (
    click.option(
        "--network",
        default="efficientnet_lite0",
        show_default=True,
        help="Saliency network: efficientnet_lite0 (embedded), vgg16 (paper), or any timm name.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="File with the network's weights (.pth or .safetensors).",
    ),
    click.option(
        "--levels",
        type=ListType(int),
        help="Saliency levels.  [default: the network's five]",
    ),
    click.option(
        "--regions",
        type=click.Choice(["kmeans", "most-salient"]),
        default="kmeans",
        show_default=True,
        help="Where anchors start: in a cluster of each saliency map, or in its brightest pixels.",
    ),
    click.option("--clusters", default=4, show_default=True, help="K of the k-means."),
    click.option(
        "--most-salient",
        default=300,
        show_default=True,
        help="Pixels of --regions most-salient at 256x256; scaled with the image's area.",
    ),
    click.option(
        "--cluster",
        type=click.Choice(["max", "min", "random"]),
        default="max",
        show_default=True,
        help="Region that anchors come from, by its centroid.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the saliency pass; bf16 changes the maps.",
    ),
    click.option("--threads", default=1, show_default=True, help="CPU threads of one worker."),
    click.option("--batch", default=8, show_default=True, help="Images per saliency pass."),
)
_PATCHES = (
    click.option(
        "--area",
        type=RangeType(),
        default="0.02,0.15",
        show_default=True,
        help="Area of a patch, as a fraction of the image.",
    ),
    click.option(
        "--aspect",
        type=RangeType(),
        default="0.3,3.3",
        show_default=True,
        help="Height/width of a patch.",
    ),
    click.option(
        "--scar-width",
        type=RangeType(),
        default="2,16",
        show_default=True,
        help="Width of a scar in px at 256 px.",
    ),
    click.option(
        "--scar-length",
        type=RangeType(),
        default="10,25",
        show_default=True,
        help="Length of a scar in px at 256 px.",
    ),
    click.option(
        "--scar-angle",
        default=45.0,
        show_default=True,
        help="A scar turns by up to this many degrees.",
    ),
    click.option(
        "--colour-jitter",
        default=0.1,
        show_default=True,
        help="Strength of the change of a cutpaste's colours, 0 to 0.4.",
    ),
    click.option(
        "--feather",
        default=0.0,
        show_default=True,
        help="Width in px at 256 px over which a patch blends into what is around it.",
    ),
)
_FORGED = (
    click.option(
        "--donors",
        type=click.Choice(["set", "procedural"]),
        default="set",
        show_default=True,
        help="What perlin kinds mix in: other good images of the same shard, or patterns drawn "
        "for each shard.",
    ),
    click.option(
        "--textures",
        type=FOLDER,
        metavar="DIR",
        help="Mix in images of this folder instead (and of those below it); their pixels become "
        "part of the set, so that --licence and --attribution should cover them.",
    ),
    click.option(
        "--saliency",
        type=click.Choice(["level", "mean", "max"]),
        default="mean",
        show_default=True,
        help="Map that guides saliency-perlin: each level's by itself, or the mean or maximum of "
        "all.",
    ),
    click.option(
        "--perlin-cells",
        type=RangeType(int),
        default="0,5",
        show_default=True,
        help="Cells of Perlin noise along a side, as powers of 2; each side draws its own.",
    ),
    click.option(
        "--alpha",
        type=RangeType(),
        default="0.1,1",
        show_default=True,
        help="Weight of the image that is mixed in.",
    ),
)
_CANVAS = (
    click.option("--image-size", type=SizeType(), default="256", show_default=True, help="Canvas."),
    click.option(
        "--fit",
        type=click.Choice(["stretch", "letterbox", "crop"]),
        default="stretch",
        show_default=True,
        help="How an image of another shape gets onto the canvas.",
    ),
    click.option(
        "--roi",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Mask of the part that is inspected, white inside. What lies outside is black for "
        "everyone from here on: no anchors, no bank entries, no scores.",
    ),
    click.option(
        "--store",
        type=click.Choice(["pixels", "anchors"]),
        default="pixels",
        show_default=True,
        help="anchors: leave the pixels of negatives out and render them on reading.",
    ),
    click.option("--shard-images", default=16, show_default=True, help="Good images per shard."),
)
_SECTIONS = {
    "Saliency": _SALIENCY,
    "Patches and scars": _PATCHES,
    "Perlin kinds": _FORGED,
    "Canvas and shards": _CANVAS,
}
SECTIONS = {heading: common.parameter_names(options) for heading, options in _SECTIONS.items()}
"""Which options stand under which heading of the help."""


def recipe_options(command: Callable) -> Callable:
    """Gives a command every option that takes part in the recipe, and `--preset`."""
    every = (*_FIRST, *(option for options in _SECTIONS.values() for option in options))
    return common.with_options(command, every)


def build_config(options: Mapping[str, Any]) -> BuildConfig:
    """The config of the typed options. Raises ConfigError where one is out of range."""
    from generator.config import BuildConfig

    height, width = options["image_size"]
    return BuildConfig(
        policies=options["policies"],
        network=options["network"],
        levels=options["levels"] or (),
        regions=options["regions"],
        n_clusters=options["clusters"],
        most_salient=options["most_salient"],
        cluster=options["cluster"],
        area_frac=options["area"],
        aspect=options["aspect"],
        scar_width_px=options["scar_width"],
        scar_length_px=options["scar_length"],
        scar_angle_deg=options["scar_angle"],
        colour_jitter=options["colour_jitter"],
        feather_px=options["feather"],
        perlin_cells=options["perlin_cells"],
        alpha=options["alpha"],
        saliency=options["saliency"],
        donors="textures" if options["textures"] is not None else options["donors"],
        noop_tolerance=options["noop_tolerance"],
        seed=options["seed"],
        repeats=options["repeats"],
        geometry=_geometry(height, width, options["fit"], options["roi"]),
        precision=options["precision"],
        threads=options["threads"],
        batch=options["batch"],
        shard_images=options["shard_images"],
        store=options["store"],
    )


def _geometry(height: int, width: int, fit: str, roi: Path | None) -> Geometry:
    from manifests.images import Geometry
    from manifests.roi import read_roi

    if roi is None:
        return Geometry(height=height, width=width, fit=fit)
    return Geometry(height, width, fit, read_roi(roi, height=height, width=width, fit=fit))


def opened_textures(
    options: Mapping[str, Any], config: BuildConfig, *, jobs: int | None
) -> Textures | None:
    """The images of `--textures`; None without that option, or where nothing is mixed in.

    What is left out with `--skip-bad` is named on stderr.

    Raises:
        DataError: no such folder, or nothing in it that can be used.
        BadImages: with every texture that cannot be used, without `--skip-bad`.
    """
    if options["textures"] is None or not config.needs_donors:
        return None
    from generator.textures import Textures

    make_progress = progress_maker(quiet=options["quiet"])
    textures = Textures.open(
        options["textures"],
        config.geometry,
        max_pixels=round(options["max_megapixels"] * 1e6),
        jobs=jobs or os.cpu_count() or 1,
        skip_bad=options["skip_bad"],
        progress=make_progress("scan textures", "images"),
    )
    common.say([f"note: texture left out: {error}" for error in textures.skipped], err=True)
    return textures


def idle_options(context: click.Context, config: BuildConfig, *, has_pass: bool) -> list[str]:
    """Options that the user typed and that this build makes no use of.

    Args:
        context: of the command.
        config: what the options made.
        has_pass: whether a network is run.
    """
    typed = [
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]
    fields = {parameter.opts[0]: _FIELDS.get(parameter.name, parameter.name) for parameter in typed}
    idle = config.idle_fields | (set() if has_pass else {"device"})
    return [option for option, field in fields.items() if field in idle]
