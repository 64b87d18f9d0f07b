"""Commands of `cutswap-gen` that carry sets from one person to another: recipes and URLs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from manifests import command_line as common
from manifests.errors import ConfigError, OutputError
from manifests.option_types import DIGEST, LOCAL_RECIPE, LOCAL_SET, LocationType
from manifests.progress import progress_maker
from manifests.terminal import counted

RECIPE_SUFFIX = ".recipe"


@click.command("export-recipe")
@click.argument("path", metavar="SET|URL", type=LocationType())
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.recipe|FOLDER",
    help="Recipe file; any other name is a folder, made where it is missing, for "
    "FOLDER/CATEGORY.recipe.",
)
@common.category_option
@click.option(
    "--with-donors",
    is_flag=True,
    help="Let donor images travel that are no normals of the set (their pixels go with them).",
)
@click.option("--overwrite", is_flag=True, help="Replace another recipe of that name.")
@common.json_option
@common.domain_errors
def export_recipe(
    path: Path | str,
    output: Path,
    categories: tuple[str, ...],
    with_donors: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the recipe of SET: all of it but the pixels.

    That is about one KB per image, more with perlin kinds. Whoever has the same images renders the
    set from it, bit for bit (cutswap-gen replay). A recipe that is there already stays; what is no
    recipe is never replaced.

    \b
    cutswap-gen export-recipe shards/bracket -o bracket.recipe
    """
    from generator.describe_recipe import describe_export, export_json
    from manifests.negative_set import NegativeSet
    from manifests.recipe import RecipeSummary, write_recipe

    folders = common.sets_at(path, categories)
    is_file = output.suffix == RECIPE_SUFFIX
    if is_file:
        _check_recipe_file(output, folders)
    elif os.path.lexists(output) and not output.is_dir():
        raise ConfigError(
            "is a file, and no recipe by its name",
            path=output,
            expected=f"FILE{RECIPE_SUFFIX}, or a folder",
            hint="change -o",
        )

    def written() -> Iterator[tuple[Path, RecipeSummary]]:
        for folder in folders:
            with NegativeSet.open(folder) as one:
                target = output if is_file else output / f"{one.manifest.category}{RECIPE_SUFFIX}"
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    summary = write_recipe(
                        target, one, with_donors=with_donors, overwrite=overwrite
                    )
                except OutputError as error:
                    error.hint = (error.hint or "change -o").replace("--out", "-o")
                    raise
            yield target, summary

    common.report(
        written(),
        as_json=as_json,
        words=lambda row: describe_export(*row),
        plain=lambda row: export_json(*row),
    )


def _check_recipe_file(output: Path, folders: list[Path]) -> None:
    """Raises where several sets, or a folder that is not there, stand against one recipe file."""
    if len(folders) > 1:
        raise ConfigError(
            "one file holds the recipe of one set",
            path=output,
            got=f"{len(folders)} sets",
            hint="pass --category, or a folder as -o",
        )
    if output.is_dir():
        raise ConfigError(
            f"is a folder, though its name ends in {RECIPE_SUFFIX}", path=output, hint="change -o"
        )
    if not output.parent.is_dir():
        raise OutputError(
            "there is no such folder for the recipe",
            path=output.parent,
            hint="make it, or pass another -o",
        )


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=LOCAL_RECIPE)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="The images: a category's folder, or the data set that holds it.",
)
@common.out_option("Folder for the sets, one subfolder per category.", required=True)
@click.option(
    "--store",
    type=click.Choice(["pixels", "anchors"]),
    help="Write the negatives' pixels, or have them rendered on reading.  [default: as recorded]",
)
@click.option(
    "--allow-drift",
    is_flag=True,
    help="Where images decode to other pixels here, make a set of these, with its own digest.",
)
@click.option(
    "--expect", type=DIGEST, help="Refuse the recipe of a set of another set digest than this."
)
@common.jobs_option
@common.megapixel_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def replay(files: tuple[Path, ...], **options: Any) -> None:
    """Render the sets of recipe FILEs from your own images, bit for bit.

    No network is used and no saliency computed. Images are known by their SHA-256, also where they
    were moved or renamed. A run that was interrupted goes on where it stopped.

    \b
    cutswap-gen replay bottle.recipe --data mvtec/ --out shards
    """
    from generator.describe_made import describe_replay, replay_json
    from generator.replay import replay_set

    if options["expect"] and len(files) > 1:
        raise ConfigError(
            "--expect names one set", got=f"{len(files)} recipes", hint="replay one at a time"
        )
    summaries = (
        replay_set(
            file,
            options["data"],
            options["out"],
            store=options["store"],
            jobs=options["jobs"] or os.cpu_count() or 1,
            allow_drift=options["allow_drift"],
            overwrite=options["overwrite"],
            max_pixels=round(options["max_megapixels"] * 1e6),
            expect=options["expect"],
            make_progress=progress_maker(quiet=options["quiet"]),
        )
        for file in files
    )
    common.report(summaries, as_json=options["as_json"], words=describe_replay, plain=replay_json)


@click.command("dump-recipe")
@click.argument("path", metavar="FILE", type=LOCAL_RECIPE)
@common.domain_errors
def dump_recipe(path: Path) -> None:
    """Print the text of a recipe: JSON, one row a line.

    \b
    cutswap-gen dump-recipe bracket.recipe | head
    """
    from manifests import recipe

    for line in recipe.dump_recipe(path):
        click.echo(line)


@click.command()
@click.argument("path", metavar="SET", type=LOCAL_SET)
@click.argument("url")
@common.category_option
@click.option("--check", is_flag=True, help="Read everything back at the end and compare digests.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Shards sent at the same time.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace another set behind URL; until all is sent, there is none.",
)
@common.json_option
@common.quiet_option
@common.domain_errors
def push(
    path: Path,
    url: str,
    categories: tuple[str, ...],
    check: bool,
    jobs: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put a negative set behind URL (s3://, file://, whatever fsspec can write).

    The files of SET go directly below URL; those of a root with several sets into one folder per
    category there. Verified before anything is sent; a run that was interrupted goes on.

    \b
    cutswap-gen push shards/bottle s3://bucket/sets/bottle
    cutswap-gen push shards s3://bucket/sets
    """
    from manifests.remote import PushSummary, is_url, push_set
    from manifests.set_folders import find_sets
    from manifests.url import below

    if not is_url(url):
        raise ConfigError("is no URL", path=url, hint="write file:///full/path for a folder")

    def words(summary: PushSummary) -> list[str]:
        present = summary.present_shards
        there = f"{present} {'was' if present == 1 else 'were'} there"
        sent = f"{counted(summary.sent_shards, 'shard')} sent, {there}"
        return [f"{summary.url}: {sent}", f"  set digest {summary.set_digest}"]

    summaries = (
        push_set(
            folder,
            url if folder == path else below(url, folder.name),
            overwrite=overwrite,
            check=check,
            jobs=jobs,
            make_progress=progress_maker(quiet=quiet),
        )
        for folder in common.chosen(find_sets(path), categories, path)
    )
    common.report(summaries, as_json=as_json, words=words, plain=vars)


@click.command()
@click.argument("url")
@common.out_option("Folder for the sets, one subfolder per category.", required=True)
@common.category_option
@common.expect_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Shards fetched at the same time.",
)
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def pull(
    url: str,
    out: Path,
    categories: tuple[str, ...],
    expect: str | None,
    jobs: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch a negative set from URL (http://, s3://, hf://, whatever fsspec can read).

    URL is a set's folder, or a folder of several where the server lists them. Every shard is
    checked before it gets its name; a run that was interrupted goes on where it stopped, and one
    more run repairs a damaged set.

    \b
    cutswap-gen pull https://example.org/sets/bottle --out shards
    cutswap-gen pull https://example.org/sets/bottle --out shards --expect DIGEST
    """
    from manifests.remote import find_remote_sets, is_url, pull_set, redacted

    if not is_url(url):
        raise ConfigError("is no URL", path=url, hint="write file:///full/path for a folder")
    urls = find_remote_sets(url)
    if categories:
        named = {one.split("?")[0].rstrip("/").rsplit("/", 1)[-1]: one for one in urls}
        folders = common.chosen([Path(name) for name in named], categories, redacted(url))
        urls = [named[folder.name] for folder in folders]
    common.check_expect_one(expect, urls, path=redacted(url))

    def words(pulled: tuple[Path, str]) -> list[str]:
        folder, digest = pulled
        return [f"{folder}: whole and unchanged", f"  set digest {digest}"]

    pulled = (
        pull_set(
            one,
            out,
            expect=expect,
            jobs=jobs,
            overwrite=overwrite,
            make_progress=progress_maker(quiet=quiet),
        )
        for one in urls
    )
    common.report(
        pulled,
        as_json=as_json,
        words=words,
        plain=lambda row: {"folder": str(row[0]), "set_digest": row[1]},
    )
