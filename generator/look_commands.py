"""The commands of `cutswap-gen` that look at sets and change nothing: inspect, verify, preview."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import click

from manifests import command_line as common
from manifests.errors import SetError
from manifests.option_types import LocationType
from manifests.progress import Progress
from manifests.terminal import counted

QUICK_ANSWER = "nothing wrong found; file digests and pixels were not compared"


@click.command()
@click.argument("path", metavar="SET|URL|RECIPE", type=LocationType())
@common.category_option
@common.json_option
@common.domain_errors
def inspect(path: Path | str, categories: tuple[str, ...], as_json: bool) -> None:
    """Say what is in a negative set or a recipe file, with its digest.

    \b
    cutswap-gen inspect shards/
    cutswap-gen inspect https://example.org/sets/bracket --json
    """
    from generator.describe import describe_set, set_json
    from manifests.schema import read_manifest

    if _is_recipe(path):
        from generator.describe_recipe import describe_recipe, recipe_json
        from manifests.recipe import read_recipe

        recipe = read_recipe(path)
        common.check_category(path, recipe.manifest.category, categories)
        common.report(
            [(path, recipe)],
            as_json=as_json,
            words=lambda row: describe_recipe(*row),
            plain=lambda row: recipe_json(*row),
        )
        return
    folders = common.sets_at(path, categories)
    common.report(
        [(folder, *read_manifest(folder)) for folder in folders],
        as_json=as_json,
        words=lambda row: describe_set(*row),
        plain=lambda row: set_json(*row),
    )


@click.command()
@click.argument("path", metavar="SET|URL|RECIPE", type=LocationType())
@common.category_option
@click.option(
    "--quick",
    is_flag=True,
    help="Manifest, sizes, structure and counts only: file digests and pixels are not compared, so "
    "a flipped bit may stay unseen.",
)
@common.expect_option
@common.json_option
@common.quiet_option
@common.domain_errors
def verify(
    path: Path | str,
    categories: tuple[str, ...],
    quick: bool,
    expect: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a negative set or a recipe file: every file, every digest, every rendered pixel.

    Lists all problems, not only the first. Exit code 0: nothing wrong; 1: something is. Of a URL,
    the copy is checked that every command works on.

    \b
    cutswap-gen verify shards/
    cutswap-gen verify shards/bracket --expect DIGEST
    """
    from manifests.url import is_url, redacted
    from manifests.verify import verify_set

    if _is_recipe(path):
        folders = [path]
        _check_recipe_options(path, categories, quick=quick)
    else:
        folders = common.sets_at(path, categories, quiet=quiet)
    common.check_expect_one(expect, folders, path=path)
    if is_url(path):
        note = f"note: looks at the copy in {folders[0]}, fetched from {redacted(path)}"
        common.say([note], err=True)

    def problems(folder: Path) -> Sequence[SetError]:
        if _is_recipe(folder):
            from manifests.recipe import recipe_problems

            progress = Progress(f"verify {folder.name}", "negatives", quiet=quiet)
            return recipe_problems(folder, expect=expect, progress=progress)
        progress = Progress(f"verify {folder.name}", "shards", quiet=quiet)
        return verify_set(folder, quick=quick, expect=expect, progress=progress)

    is_quick = quick and not _is_recipe(path)
    count = common.report_problems(
        ((folder, problems(folder)) for folder in folders),
        as_json=as_json,
        whole=QUICK_ANSWER if is_quick else common.WHOLE,
    )
    if count:
        raise SetError(
            f"{counted(count, 'problem')} found",
            path=path,
            hint="do not use this set",
        )


@click.command()
@click.argument("path", metavar="SET|URL", type=LocationType())
@common.out_option("Folder for the contact sheets.", required=True)
@common.category_option
@click.option("--count", type=click.IntRange(min=1), default=6, show_default=True, help="Sheets.")
@common.seed_option
@common.quiet_option
@common.domain_errors
def preview(
    path: Path | str, out: Path, categories: tuple[str, ...], count: int, seed: int, quiet: bool
) -> None:
    """Draw a contact sheet per image: saliency, cluster, anchors, negatives, masks.

    \b
    cutswap-gen preview shards/ --out sheets
    """
    import numpy as np

    from generator.preview import preview_sheet
    from manifests.images import write_png
    from manifests.negative_set import NegativeSet

    for folder in common.sets_at(path, categories, quiet=quiet):
        with NegativeSet.open(folder) as negative_set:
            total = negative_set.n_normals
            rng = np.random.default_rng(seed)
            chosen = sorted(rng.choice(total, size=min(count, total), replace=False).tolist())
            progress = Progress(f"preview {folder.name}", "sheets", quiet=quiet)
            for done, row in enumerate(chosen, start=1):
                target = out / folder.name / f"normal-{row:05d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                write_png(target, preview_sheet(negative_set, row))
                progress(done, len(chosen))
        click.echo(f"wrote {counted(len(chosen), 'sheet')} to {out / folder.name}")


def _is_recipe(path: Path | str) -> TypeGuard[Path]:
    return isinstance(path, Path) and path.is_file()


def _check_recipe_options(path: Path, categories: Sequence[str], *, quick: bool) -> None:
    """Names options of `verify` that do not fit a recipe file."""
    from manifests.recipe import read_recipe

    if quick:
        common.note_idle("--quick", where="for a recipe, which is checked as a whole")
    if categories:
        with contextlib.suppress(SetError):  # the problems of a damaged one are listed later
            common.check_category(path, read_recipe(path).manifest.category, categories)
