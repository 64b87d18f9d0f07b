"""The command of `cutswap-det` that writes the report: one HTML page for people to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.score_options import min_area_option
from manifests import command_line as common
from manifests.errors import ConfigError
from manifests.option_types import LocationType
from manifests.progress import progress_maker

if TYPE_CHECKING:
    from detector.min_area import MinArea


@click.command()
@click.argument("models", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The HTML file.",
)
@click.option(
    "--set",
    "sets",
    metavar="SET|URL",
    type=LocationType(),
    help="The models' negative sets: one's folder, a root of several, or a URL; without it the "
    "page says nothing of them.",
)
@click.option(
    "--title", default="Inspection report", show_default=True, help="Heading of the page."
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Test images shown at most per category: misses and false alarms first, then those "
    "nearest to the threshold.",
)
@click.option(
    "--picture-px",
    type=click.IntRange(32, 2048),
    default=320,
    show_default=True,
    help="Longest side of their pictures in pixels; the file grows with its square.",
)
@common.device_option
@common.category_option
@common.format_option
@click.option(
    "--train-list",
    type=click.Path(path_type=Path),
    help="File naming the training images (layouts mtd and labelled); training files are left out "
    "in any case.",
)
@min_area_option
@common.megapixel_option
@common.skip_bad_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def report(
    models: Path,
    data: tuple[Path, ...],
    out: Path,
    sets: Path | str | None,
    title: str,
    pictures: int,
    picture_px: int,
    device: str,
    categories: tuple[str, ...],
    data_format: str | None,
    train_list: Path | None,
    min_area: MinArea,
    max_megapixels: float,
    skip_bad: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure models on labelled DATA, as eval does, and write one HTML page to look at.

    Metrics, curves, score histograms, results per kind of defect, and every test image with its
    heat map and ground truth, misses and false alarms first. One file: it asks the network for
    nothing and can be mailed, printed and kept.

    \b
    cutswap-det report models mvtec/ -o report.html
    cutswap-det report models/part data/part --set shards/part -o part.html
    """
    from detector.model_folder import find_models
    from detector.model_pairs import pair_models
    from detector.report import results_table
    from detector.reporting import ReportSummary, write_html_report
    from manifests.allocator import keep_freed_memory
    from manifests.datasets import open_data
    from manifests.weights import resolve_device

    keep_freed_memory()
    if not title.strip():
        raise ConfigError("--title is empty", hint="give one, or leave it out")
    folders = common.chosen(find_models(models), categories, models)
    found = open_data(data, format=data_format, train_list=train_list)
    common.say_notes(found)
    done = write_html_report(
        pair_models(folders, found, models),
        out,
        sets=() if sets is None else common.sets_at(sets, (), quiet=quiet),
        title=title,
        pictures=pictures,
        picture_px=picture_px,
        device=resolve_device(device),
        min_area=min_area,
        max_pixels=round(max_megapixels * 1e6),
        skip_bad=skip_bad,
        overwrite=overwrite,
        make_progress=progress_maker(quiet=quiet),
    )
    notes = [f"{one.category}: {note}" for one in done.results for note in one.notes]
    common.say([*notes, *(f"warning: {note}" for note in done.notes)], err=True)

    def words(summary: ReportSummary) -> list[str]:
        table = results_table([result.row() for result in summary.results])
        megabytes = summary.size_bytes / 1e6
        shown = f"{summary.shown} of {summary.images} test images"
        return [*table.split("\n"), f"{summary.path}: {shown}, {megabytes:.1f} MB"]

    common.report([done], as_json=as_json, words=words, plain=ReportSummary.to_json)
