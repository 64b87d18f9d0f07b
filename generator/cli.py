"""`cutswap-gen`: makes negative sets and looks at them; other commands are in `*_commands.py`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from generator import data_commands, look_commands, policy_commands, set_commands, sharing_commands
from generator.build_options import (
    PRESETS,
    SECTIONS,
    build_config,
    idle_options,
    opened_textures,
    recipe_options,
)
from manifests import command_line as common
from manifests import hdf5_plugins
from manifests.option_types import LOCAL_SET, OutputType
from manifests.progress import Progress, progress_maker

_SECTIONS = {
    "Make": ("sample-data", "check", "policies", "build"),
    "Look": ("inspect", "verify", "preview", "diff"),
    "Rearrange": ("merge", "subset", "export"),
    "Share": ("export-recipe", "replay", "dump-recipe", "push", "pull"),
}


@click.group(
    cls=common.SectionedGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="cutswap", prog_name="cutswap-gen")
def main() -> None:
    """Make synthetic negatives from good images, once, and keep them.

    \b
    cutswap-gen sample-data demo/data            a data set to try it on
    cutswap-gen check demo/data                  what is wrong with it
    cutswap-gen build demo/data --out shards     saliency, anchors, swaps and scars
    cutswap-gen preview shards --out sheets      look at them
    cutswap-gen export-recipe shards -o recipes  share them without their pixels
    """
    hdf5_plugins.disable()


@main.command("sample-data")
@click.argument("folder", type=click.Path(path_type=Path))
@common.seed_option
@click.option("--train", default=60, show_default=True, help="Good training images.")
@click.option("--test-good", default=24, show_default=True, help="Good test images.")
@click.option("--per-defect", default=8, show_default=True, help="Test images of each defect.")
@common.overwrite_option
@common.quiet_option
@common.domain_errors
def sample_data(
    folder: Path,
    seed: int,
    train: int,
    test_good: int,
    per_defect: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Render a small data set in MVTec AD layout into FOLDER.

    A machined part on a textured ground, with scratches, dents, contamination and missing pieces,
    and exact masks. Synthetic, ours, free to use.

    \b
    cutswap-gen sample-data photos
    cutswap-gen sample-data photos --train 60 --seed 3
    """
    from generator.sample_data import render_sample_data

    target = render_sample_data(
        folder,
        seed=seed,
        train=train,
        test_good=test_good,
        per_defect=per_defect,
        overwrite=overwrite,
        progress=Progress("render", "images", quiet=quiet),
    )
    click.echo(f"wrote {target}")


@main.command(cls=common.SectionedCommand, sections=SECTIONS)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=OutputType(),
    required=True,
    help="Folder for the sets, one subfolder per category; or a URL that can be written, such as "
    "s3://bucket/sets.",
)
@recipe_options
@click.option(
    "--reuse-saliency",
    type=LOCAL_SET,
    metavar="SET",
    help="Take the saliency maps from this set of the same images (or root of several) instead of "
    "running the network again; the result is the same.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Shards made at once.  [default: one per CPU core; with dask and ray as many "
    "as the cluster has room for]",
)
@click.option(
    "--backend",
    type=click.Choice(["loky", "threading", "dask", "ray"]),
    default="loky",
    show_default=True,
    help="What makes the shards: worker processes, threads of this one, or a cluster "
    "(docs/scale.md). The bytes are the same.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Of Dask's scheduler (tcp://10.0.0.1:8786), or of a Ray cluster.",
)
@common.device_option
@common.category_option
@common.format_option
@click.option(
    "--train-list",
    type=click.Path(path_type=Path),
    help="File naming the training images (layouts mtd and labelled).",
)
@click.option(
    "--licence",
    metavar="TEXT",
    help="Licence of the images, recorded in the set.  [default: that of a known data set]",
)
@click.option(
    "--attribution",
    metavar="TEXT",
    help="Whom to name for the images, recorded in the set.  [default: as for --licence]",
)
@common.megapixel_option
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Go on without unusable images; they are listed and recorded, textures listed only.",
)
@click.option(
    "--add",
    is_flag=True,
    help="Append the images that the set in --out does not hold yet, as further shards; what is "
    "there stays as it is. DATA may be all images or the new ones alone.",
)
@common.overwrite_option
@common.json_option
@common.quiet_option
@click.pass_context
@common.domain_errors
def build(context: click.Context, **options: Any) -> None:
    """Make the negatives of DATA and write them to shards.

    DATA is a data set in one of the layouts of docs/data.md (MVTec AD's and others), a list of
    images (CSV, Parquet) or a folder of good images. A run that was interrupted goes on where it
    stopped; a finished one is left alone.

    \b
    cutswap-gen build mvtec/ --out shards
    cutswap-gen build photos/ --out shards --image-size 320 --fit letterbox
    cutswap-gen build photos/ --out shards --image-size 320 --fit letterbox --add
    cutswap-gen build mvtec/ --out s3://bucket/sets --backend dask --scheduler tcp://10.0.0.1:8786
    """
    if options["add"] and options["overwrite"]:
        raise click.UsageError("--add keeps what is there, --overwrite replaces it: pass one")
    if options["textures"] is not None and common.is_typed("donors"):
        raise click.UsageError("--textures are the donors, --donors names others: pass one")
    common.apply_preset(context, options, PRESETS)
    from generator.backends import Backend
    from generator.describe_made import build_json, describe_build
    from generator.pipeline import build_set
    from manifests.datasets import open_data
    from manifests.weights import resolve_device

    config = build_config(options)
    backend = Backend(name=options["backend"], scheduler=options["scheduler"])
    has_pass = config.needs_saliency and options["reuse_saliency"] is None
    for option in idle_options(context, config, has_pass=has_pass):
        click.echo(f"note: {option} changes nothing in this build", err=True)
    device = resolve_device(options["device"]) if has_pass else "cpu"
    threads = config.threads if has_pass else 1
    own = None if backend.is_cluster else max(1, (os.cpu_count() or 1) // threads)
    categories = open_data(
        options["data"],
        format=options["data_format"],
        train_list=options["train_list"],
        seed=options["seed"],
        categories=options["categories"],
    )
    common.say_notes(categories)
    jobs = options["jobs"] or own
    textures = opened_textures(options, config, jobs=jobs)
    terms = {name: options[name] for name in ("licence", "attribution")}
    typed = {name: text.strip() for name, text in terms.items() if text is not None}
    summaries = (
        build_set(
            replace(category, **typed),
            config,
            options["out"],
            weights=options["weights"],
            device=device,
            jobs=jobs,
            backend=backend,
            max_pixels=round(options["max_megapixels"] * 1e6),
            skip_bad=options["skip_bad"],
            overwrite=options["overwrite"],
            add=options["add"],
            reuse_saliency=options["reuse_saliency"],
            textures=textures,
            make_progress=progress_maker(quiet=options["quiet"]),
        )
        for category in categories
    )
    common.report(summaries, as_json=options["as_json"], words=describe_build, plain=build_json)


for _command in (
    data_commands.check,
    look_commands.inspect,
    look_commands.verify,
    look_commands.preview,
    policy_commands.policies,
    set_commands.merge,
    set_commands.subset,
    set_commands.diff,
    set_commands.export,
    sharing_commands.export_recipe,
    sharing_commands.replay,
    sharing_commands.dump_recipe,
    sharing_commands.push,
    sharing_commands.pull,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()
