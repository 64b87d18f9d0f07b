"""`cutswap-det`: fit, look, judge, compare, and hand on; the commands by name in `_SECTIONS`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector import (
    bank_commands,
    explain_command,
    export_commands,
    model_commands,
    report_commands,
    study_commands,
    watch_commands,
)
from detector.fit_options import PRESETS, SECTIONS, fit_config, fit_options
from detector.score_options import min_area_option
from manifests import command_line as common
from manifests import hdf5_plugins
from manifests.errors import ConfigError, CutswapError
from manifests.option_types import LocationType
from manifests.progress import Progress, progress_maker

if TYPE_CHECKING:
    from detector.min_area import MinArea
    from detector.scored_image import ScoredImage

_SECTIONS = {
    "Make": ("fit",),
    "Look": ("detectors", "inspect", "verify"),
    "Judge": (
        "score",
        "watch",
        "explain",
        "eval",
        "report",
        "recalibrate",
        "bank",
        "compare",
    ),
    "Hand on": ("export",),
}


@click.group(
    cls=common.SectionedGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="cutswap", prog_name="cutswap-det")
def main() -> None:
    """Train a detector from negative sets, then score, localise and evaluate.

    \b
    cutswap-det fit shards --out models           extractor, detector, thresholds
    cutswap-det score models/part photos/         a verdict per image
    cutswap-det eval models mvtec/ --out results  AUROC, AUPRO, curves, cases
    cutswap-det compare plan.toml --out study     does it help? tables with intervals
    """
    hdf5_plugins.disable()


@main.command(cls=common.SectionedCommand, sections=SECTIONS)
@click.argument("shards", metavar="SET|URL", type=LocationType())
@common.out_option("Folder for the models, one subfolder per category.", required=True)
@common.seed_option
@fit_options
@common.expect_option
@common.device_option
@common.category_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@click.pass_context
@common.domain_errors
def fit(context: click.Context, **options: Any) -> None:
    """Train the extractor on negative sets and fit the detector.

    SET is what `cutswap-gen build` wrote: one category's folder, a root of several, or the URL
    of a set. An interrupted run goes on from its last checkpoint. Under torchrun its processes
    share the work; the first one writes.

    \b
    cutswap-det fit shards --out models
    cutswap-det fit shards --out untuned --updates 0 --coreset 0.001
    cutswap-det fit shards --out gaussian --detector gaussian
    cutswap-det fit shards --out guided --detector guided-seg
    """
    common.apply_preset(context, options, PRESETS)
    from detector.describe import describe_fit
    from detector.pipeline import FitSummary, fit_model
    from detector.torchrun import torchrun_processes
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    with torchrun_processes() as processes:
        device = processes.own_device(resolve_device(options["device"]))
        config = fit_config(context, options, device, n_processes=processes.count)
        is_quiet = options["quiet"] or not processes.is_first

        def find_sets() -> list[Path]:
            return common.sets_at(
                options["shards"],
                options["categories"],
                expect=options["expect"],
                quiet=is_quiet,
            )

        # On every machine the first process fetches a set, and the others find it in the cache.
        folders = find_sets() if processes.rank_here == 0 else None
        processes.wait()
        folders = find_sets() if folders is None else folders
        common.check_expect_one(options["expect"], folders, path=options["shards"])
        if options["anomalous"] is not None and len(folders) > 1:
            raise ConfigError(
                "--anomalous holds the anomalies of one category",
                got=f"{len(folders)} categories",
                hint="choose one with --category",
            )

        def summaries() -> Iterator[FitSummary]:
            for folder in folders:
                summary = fit_model(
                    folder,
                    config,
                    options["out"],
                    weights=options["weights"],
                    anomalous=options["anomalous"],
                    device=device,
                    overwrite=options["overwrite"],
                    expect=options["expect"],
                    make_progress=progress_maker(quiet=is_quiet),
                    processes=processes,
                )
                if summary is None:  # not ours to tell
                    continue
                for warning in summary.warnings:
                    common.say([f"warning: {warning}"], err=True)
                yield summary

        if processes.is_first:
            common.report(
                summaries(),
                as_json=options["as_json"],
                words=describe_fit,
                plain=FitSummary.to_json,
            )
        else:
            for _ in summaries():
                pass


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="Form of the lines on stdout; json and jsonl hold regions too, jsonl is a line per "
    "image as soon as it is scored.",
)
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for overlays in original pixels.",
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for binary masks in original pixels.",
)
@min_area_option
@common.jobs_option
@common.device_option
@common.megapixel_option
@common.skip_bad_option
@common.quiet_option
@common.domain_errors
def score(
    model: Path,
    paths: tuple[Path, ...],
    output: str,
    heatmaps: Path | None,
    masks: Path | None,
    min_area: MinArea,
    jobs: int | None,
    device: str,
    max_megapixels: float,
    skip_bad: bool,
    quiet: bool,
) -> None:
    """Score images: a line each with score, score / threshold, p-value and verdict.

    The p-value is the share of good images, of those that the thresholds come from, that score as
    high or higher.

    MODEL is a model folder, or a root with one model in it; PATHS are images or folders.

    \b
    cutswap-det score models/part line3/ --heatmaps heat --output csv > scores.csv
    cutswap-det score models/part line3/ --min-area 0.05% --output jsonl > parts.jsonl
    """
    from detector.describe import score_lines
    from detector.model_folder import find_model
    from detector.score_record import RecordedModel, image_record
    from detector.scoring import Scorer, score_each
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    scorer = Scorer.load(
        find_model(model),
        device=resolve_device(device),
        min_area=min_area,
        with_regions=output in ("json", "jsonl"),
        heatmaps=heatmaps,
        masks=masks,
    )
    recorded = RecordedModel.of(scorer.model, scorer.model_digest)
    skipped: list[CutswapError] = []
    rows = score_each(
        scorer,
        paths,
        skipped,
        readers=jobs or os.cpu_count() or 1,
        max_pixels=round(max_megapixels * 1e6),
        skip_bad=skip_bad,
        progress=Progress("score", "images", quiet=quiet),
    )
    listed: list[ScoredImage] = []
    if output == "jsonl":
        for row in rows:
            click.echo(json.dumps(image_record(row, recorded)))
    else:
        listed += rows
    for error in skipped:
        click.echo(f"skipped {error}", err=True)
    if output != "jsonl":
        text = score_lines(listed, output, model=recorded)
        # Bytes, as a name may be no text.
        click.echo(text.encode("utf-8", "surrogateescape"), nl=False)


@main.command("eval")
@click.argument("models", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.out_option(
    "Folder for metrics, curves, histograms and cases.  [default: results]", default="results"
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
@click.option("--cases", default=6, show_default=True, help="Cases of each kind in the picture.")
@common.megapixel_option
@common.skip_bad_option
@common.json_option
@common.quiet_option
@common.domain_errors
def eval_(
    models: Path,
    data: tuple[Path, ...],
    out: Path,
    device: str,
    categories: tuple[str, ...],
    data_format: str | None,
    train_list: Path | None,
    min_area: MinArea,
    cases: int,
    max_megapixels: float,
    skip_bad: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure models on labelled DATA; files they were trained on are left out.

    Image AUROC, AP and F1-max; pixel AUROC, AP, F1-max and AUPRO (up to a false-positive rate of
    0.3); per category and as an unweighted mean.

    \b
    cutswap-det eval models mvtec/ --out results
    """
    from detector.model_folder import find_models
    from detector.model_pairs import pair_models
    from detector.pipeline import evaluate_models
    from detector.report import results_table
    from manifests.allocator import keep_freed_memory
    from manifests.datasets import open_data
    from manifests.weights import resolve_device

    keep_freed_memory()
    folders = common.chosen(find_models(models), categories, models)
    found = open_data(data, format=data_format, train_list=train_list)
    common.say_notes(found)
    pairs = pair_models(folders, found, models)
    results = evaluate_models(
        pairs,
        out,
        device=resolve_device(device),
        cases=cases,
        min_area=min_area,
        max_pixels=round(max_megapixels * 1e6),
        skip_bad=skip_bad,
        make_progress=progress_maker(quiet=quiet),
    )
    for result in results:
        for note in result.notes:
            click.echo(f"{result.category}: {note}", err=True)
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results], indent=1))
    else:
        click.echo(results_table([result.row() for result in results]))
        click.echo(f"pictures and scores in {out}")


for _command in (
    model_commands.detectors,
    model_commands.inspect,
    model_commands.verify,
    model_commands.recalibrate,
    report_commands.report,
    watch_commands.watch,
    explain_command.explain,
    bank_commands.bank,
    study_commands.compare,
    export_commands.export,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()
