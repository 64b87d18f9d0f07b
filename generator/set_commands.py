"""Commands of `cutswap-gen` that make new sets of old ones, compare them and write them out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from manifests import command_line as common
from manifests.errors import ConfigError
from manifests.option_types import ListType, LocationType
from manifests.progress import progress_maker
from manifests.terminal import counted


@click.command()
@click.argument("paths", metavar="SET|URL...", nargs=-1, required=True, type=LocationType())
@common.out_option("Folder for the merged sets, one subfolder per category.", required=True)
@click.option(
    "--renumber",
    is_flag=True,
    help="Where two sets have different negatives under the same number, number the later set's on "
    "instead of refusing.",
)
@click.option("--drop-saliency", is_flag=True, help="Leave the saliency maps out.")
@click.option(
    "--store",
    type=click.Choice(["pixels", "anchors"]),
    help="How the negatives are stored.  [default: as in the first set]",
)
@click.option(
    "--shard-images",
    type=click.IntRange(min=1),
    help="Good images per shard.  [default: as in the first set]",
)
@common.category_option
@common.jobs_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def merge(
    paths: tuple[Path | str, ...],
    out: Path,
    renumber: bool,
    drop_saliency: bool,
    store: str | None,
    shard_images: int | None,
    categories: tuple[str, ...],
    jobs: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Join sets of the same category: their images, kinds of negatives, and repeats.

    Images and negatives that several sets hold are kept once. What is in conflict is refused. Each
    SET is one, or a root of several, of which those of the same name are joined.

    \b
    cutswap-gen merge monday tuesday --out shards
    cutswap-gen merge seed-0 seed-1 --renumber --out shards
    """
    from generator.describe_made import describe_merge, merge_json
    from generator.merge import merge_sets

    summaries = (
        merge_sets(
            folders,
            out,
            renumber=renumber,
            drop_saliency=drop_saliency,
            shard_images=shard_images,
            store=store,
            jobs=jobs or os.cpu_count() or 1,
            overwrite=overwrite,
            make_progress=progress_maker(quiet=quiet),
        )
        for folders in _to_merge(paths, categories, quiet=quiet)
    )
    common.report(summaries, as_json=as_json, words=describe_merge, plain=merge_json)


@click.command()
@click.argument("path", metavar="SET|URL", type=LocationType())
@common.out_option("Folder for the subset, one subfolder per category.", required=True)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="GLOB",
    help="Only images whose path below the data folder matches; * matches / too (repeatable).",
)
@click.option("--policies", type=ListType(), help="Only negatives of these kinds.")
@click.option(
    "--levels",
    type=ListType(int),
    help="Only negatives of these saliency levels, beside those that have none.",
)
@click.option("--fraction", type=float, help="This part of the images, at random: above 0, to 1.")
@common.seed_option
@common.category_option
@common.jobs_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def subset(
    path: Path | str,
    out: Path,
    images: tuple[str, ...],
    policies: tuple[str, ...] | None,
    levels: tuple[int, ...] | None,
    fraction: float | None,
    seed: int,
    categories: tuple[str, ...],
    jobs: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write part of SET as a set of its own: some images, some of their negatives.

    \b
    cutswap-gen subset shards --category bottle --policies swap --out swaps
    cutswap-gen subset shards --fraction 0.1 --seed 3 --out few
    """
    from generator.describe_made import describe_subset, subset_json
    from generator.subset import subset_set

    if not (images or policies or levels or categories) and fraction is None:
        raise ConfigError(
            "nothing is chosen",
            hint="pass --category, --image, --policies, --levels or --fraction",
        )
    if fraction is None and common.is_typed("seed"):
        common.note_idle("--seed", where="without --fraction")
    summaries = (
        subset_set(
            folder,
            out,
            images=images,
            policies=policies or (),
            levels=levels or (),
            fraction=fraction,
            seed=seed,
            jobs=jobs or os.cpu_count() or 1,
            overwrite=overwrite,
            make_progress=progress_maker(quiet=quiet),
        )
        for folder in common.sets_at(path, categories, quiet=quiet)
    )
    common.report(summaries, as_json=as_json, words=describe_subset, plain=subset_json)


@click.command()
@click.argument("a", metavar="SET|URL|RECIPE", type=LocationType())
@click.argument("b", metavar="SET|URL|RECIPE", type=LocationType())
@common.category_option
@common.json_option
@common.domain_errors
def diff(a: Path | str, b: Path | str, categories: tuple[str, ...], as_json: bool) -> None:
    """Say what differs between two sets: recipe, images, edits, pixels.

    The first is called A, the second B. How a set is cut into shards and stored is no difference.
    Exit code 0: they hold the same; 1: they differ; 2: they cannot be compared.

    \b
    cutswap-gen diff shards/bracket other/bracket
    """
    from generator.diff_text import describe_diff, diff_json
    from generator.set_diff import diff_sets
    from manifests.errors import CutswapError

    try:
        found = diff_sets(_one_set(a, categories), _one_set(b, categories))
    except CutswapError as error:
        error.exit_code = 2  # 1 is an answer
        raise
    if as_json:
        click.echo(json.dumps(diff_json(found), indent=1))
    else:
        common.say(describe_diff(found))
    if not found.is_equal:
        raise SystemExit(1)


@click.command()
@click.argument("path", metavar="SET|URL", type=LocationType())
@common.out_option("Folder for the trees, one subfolder per category.", required=True)
@click.option(
    "--to",
    type=click.Choice(["folder", "mvtec"]),
    default="folder",
    show_default=True,
    help="Layout: normal, abnormal and mask, as anomalib's Folder takes them; or MVTec AD's.",
)
@click.option("--policies", type=ListType(), help="Only these kinds of negatives.  [default: all]")
@common.category_option
@common.jobs_option
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an earlier export of this category; a folder of anything else is left alone.",
)
@common.json_option
@common.quiet_option
@common.domain_errors
def export(
    path: Path | str,
    out: Path,
    to: str,
    policies: tuple[str, ...] | None,
    categories: tuple[str, ...],
    jobs: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a negative set as PNG files, for tools that read folders.

    Beside the images lie a table of what each negative was made from, and the licence.

    \b
    cutswap-gen export shards --out pngs
    cutswap-gen export shards --out like-mvtec --to mvtec --policies swap
    """
    from generator.export_images import ExportSummary, export_images

    def words(summary: ExportSummary) -> list[str]:
        images = counted(summary.normals, "normal image")
        negatives = f"{counted(summary.negatives, 'negative')} with masks"
        return [f"{summary.folder}: {images}, {negatives}"]

    summaries = (
        export_images(
            folder,
            out,
            to=to,
            policies=policies or (),
            jobs=jobs or os.cpu_count() or 1,
            overwrite=overwrite,
            make_progress=progress_maker(quiet=quiet),
        )
        for folder in common.sets_at(path, categories, quiet=quiet)
    )
    common.report(summaries, as_json=as_json, words=words, plain=ExportSummary.to_json)


def _to_merge(
    paths: tuple[Path | str, ...], categories: tuple[str, ...], *, quiet: bool
) -> list[list[Path]]:
    """The folders to be joined, one list per category, in the order given."""
    found = [common.sets_at(path, categories, quiet=quiet) for path in paths]
    if all(len(folders) == 1 for folders in found):
        return [[folder for folders in found for folder in folders]]
    groups: dict[str, list[Path]] = {}
    for folder in (folder for folders in found for folder in folders):
        groups.setdefault(folder.name, []).append(folder)
    alone = [name for name, folders in groups.items() if len(folders) < 2]
    if alone:
        raise ConfigError(
            f"there is nothing to merge {alone[0]} with",
            path=groups[alone[0]][0],
            hint="name the categories to merge with --category",
        )
    return list(groups.values())


def _one_set(path: Path | str, categories: tuple[str, ...]) -> Path:
    if isinstance(path, Path) and path.is_file():
        if categories:
            from manifests.recipe import read_recipe

            common.check_category(path, read_recipe(path).manifest.category, categories)
        return path
    folders = common.sets_at(path, categories)
    if len(folders) > 1:
        raise ConfigError("holds several sets", path=path, got=len(folders), hint="use --category")
    return folders[0]
