"""`cutswap-det`: fit, inspect, verify, score, eval, compare."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from detector.fit_options import PRESETS, fit_config, fit_options
from manifests import command_line as common
from manifests import hdf5_plugins
from manifests.errors import ConfigError, ModelError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cutswap", prog_name="cutswap-det")
def main() -> None:
    """Train a detector from negative sets, then score, localise and evaluate.

    \b
    cutswap-det fit shards --out models          extractor, detector, thresholds
    cutswap-det score models/part photos/        a verdict per image
    cutswap-det eval models mvtec/ --out results  AUROC, AUPRO, curves, cases
    cutswap-det compare plan.toml --out study    does it help? tables with intervals
    """
    hdf5_plugins.disable()


@main.command()
@click.argument("shards", type=common.LocationType())
@common.out_option("Folder for the models, one subfolder per category.", required=True)
@common.seed_option
@fit_options
@click.option("--expect", metavar="DIGEST", help="Refuse a set of another set digest than this.")
@common.device_option
@common.category_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@click.pass_context
@common.domain_errors
def fit(context: click.Context, **options) -> None:
    """Train the extractor on negative sets and fit the detector.

    SHARDS is what `cutswap-gen build` wrote: one category's folder, a root of several, or the URL
    of a set. An interrupted run goes on from its last checkpoint.

    \b
    cutswap-det fit shards --out models
    cutswap-det fit shards --out untuned --updates 0 --coreset 0.001
    cutswap-det fit shards --out gaussian --detector gaussian
    """
    common.apply_preset(context, options, PRESETS)
    from detector.describe import describe_fit
    from detector.pipeline import fit_model
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    device = resolve_device(options["device"])
    config = fit_config(context, options, device)
    folders = common.sets_at(options["shards"], options["categories"], expect=options["expect"])
    if options["expect"] and len(folders) > 1:
        raise ConfigError(
            "--expect names one set",
            path=options["shards"],
            got=f"{len(folders)} sets",
            hint="use --category",
        )
    quiet = options["quiet"]
    summaries = []
    for folder in folders:
        summary = fit_model(
            folder,
            config,
            options["out"],
            weights=options["weights"],
            device=device,
            overwrite=options["overwrite"],
            expect=options["expect"],
            make_progress=lambda label, unit: common.Progress(label, unit, quiet=quiet),
        )
        summaries.append(summary)
        for warning in summary.warnings:
            click.echo(f"warning: {warning}", err=True)
        if not options["as_json"]:
            click.echo(describe_fit(summary))
    if options["as_json"]:
        click.echo(json.dumps([summary.to_json() for summary in summaries], indent=1))


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@common.category_option
@common.json_option
@common.domain_errors
def inspect(model: Path, categories, as_json: bool) -> None:
    """Say what is in a model, with its digest.

    MODEL is a model folder, or a root of several.
    """
    from detector.describe import describe_model, model_json
    from detector.model_folder import find_models
    from detector.model_record import read_record

    folders = common.chosen(find_models(model), categories, model)
    found = [(folder, *read_record(folder)) for folder in folders]
    if as_json:
        click.echo(json.dumps([model_json(*row) for row in found], indent=1))
        return
    for row in found:
        click.echo(describe_model(*row))


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@common.category_option
@click.option("--expect", metavar="DIGEST", help="The model digest you were told.")
@common.json_option
@common.domain_errors
def verify(model: Path, categories, expect, as_json: bool) -> None:
    """Check a model: every file, every digest.

    MODEL is a model folder, or a root of several. Lists all problems, not only the first. Exit
    code 0: nothing wrong; 1: something is.
    """
    from detector.describe import problem_json
    from detector.model_folder import find_models
    from detector.verify_model import verify_model

    folders = common.chosen(find_models(model), categories, model)
    if expect and len(folders) > 1:
        raise ConfigError(
            "--expect names one model",
            path=model,
            got=f"{len(folders)} models",
            hint="use --category",
        )
    found = {folder: verify_model(folder, expect=expect) for folder in folders}
    if as_json:
        rows = [problem_json(folder, one) for folder, many in found.items() for one in many]
        click.echo(json.dumps(rows, indent=1))
    else:
        for folder, problems in found.items():
            for problem in problems:
                common.say([f"{folder}: {problem}"])
            if not problems:
                click.echo(f"{folder}: whole and unchanged")
    count = sum(map(len, found.values()))
    if count:
        raise ModelError(
            f"{count} problem{'s' if count != 1 else ''} found",
            path=model,
            hint="do not use this model",
        )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="Form of the lines on stdout.",
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
@common.jobs_option
@common.device_option
@common.megapixel_option
@common.skip_bad_option
@common.quiet_option
@common.domain_errors
def score(
    model, paths, output, heatmaps, masks, jobs, device, max_megapixels, skip_bad, quiet
) -> None:
    """Score images: a line each with score, score / threshold, and verdict.

    MODEL is a model folder, or a root with one model in it; PATHS are images or folders.

    \b
    cutswap-det score models/part line3/ --heatmaps heat --output csv > scores.csv
    """
    from detector.describe import score_lines
    from detector.model_folder import find_models
    from detector.scoring import score_images
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    folders = find_models(model)
    if len(folders) > 1:
        raise ConfigError(
            "several models here",
            path=model,
            expected=f"one of {', '.join(folder.name for folder in folders)}",
            hint="give its folder",
        )
    rows, skipped = score_images(
        folders[0],
        paths,
        heatmaps=heatmaps,
        masks=masks,
        device=resolve_device(device),
        readers=jobs or os.cpu_count() or 1,
        max_pixels=round(max_megapixels * 1e6),
        skip_bad=skip_bad,
        progress=common.Progress("score", "images", quiet=quiet),
    )
    for error in skipped:
        click.echo(f"skipped {error}", err=True)
    click.echo(score_lines(rows, output), nl=False)


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
    help="File naming the training images (MTD layout); training files are left out in any case.",
)
@click.option("--cases", default=6, show_default=True, help="Cases of each kind in the picture.")
@common.megapixel_option
@common.skip_bad_option
@common.json_option
@common.quiet_option
@common.domain_errors
def eval_(
    models,
    data,
    out,
    device,
    categories,
    data_format,
    train_list,
    cases,
    max_megapixels,
    skip_bad,
    as_json,
    quiet,
) -> None:
    """Measure models on labelled DATA; files they were trained on are left out.

    Image AUROC, AP and F1-max; pixel AUROC, AP, F1-max and AUPRO (up to a false-positive rate of
    0.3); per category and as an unweighted mean.

    \b
    cutswap-det eval models mvtec/ --out results
    """
    from detector.model_folder import find_models
    from detector.pipeline import evaluate_models
    from detector.report import results_table
    from manifests.allocator import keep_freed_memory
    from manifests.datasets import open_data
    from manifests.weights import resolve_device

    keep_freed_memory()
    folders = common.chosen(find_models(models), categories, models)
    found = open_data(data, format=data_format, train_list=train_list)
    pairs = _pair(folders, found, models)
    results = evaluate_models(
        pairs,
        out,
        device=resolve_device(device),
        cases=cases,
        max_pixels=round(max_megapixels * 1e6),
        skip_bad=skip_bad,
        make_progress=lambda label, unit: common.Progress(label, unit, quiet=quiet),
    )
    for result in results:
        for note in result.notes:
            click.echo(f"{result.category}: {note}", err=True)
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results], indent=1))
    else:
        click.echo(results_table([result.row() for result in results]))
        click.echo(f"pictures and scores in {out}")


@main.command()
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@common.out_option("Folder of the study; a later run goes on from what is there.", required=True)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=PATH[,train_list=FILE]",
    help="Data folder, in place of the plan's of that name (repeatable).",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME:OPTION=VALUE,...",
    help="Without a plan: a negative set and its options of build (repeatable).",
)
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="NAME:OPTION=VALUE,...",
    help="Without a plan: an arm and its options of fit; set=NAME names its set (repeatable).",
)
@click.option("--baseline", help="Without a plan: the arm to compare with.  [default: the first]")
@click.option("--coresets", type=common.ListType(float), help="Instead of the plan's coresets.")
@click.option("--seeds", type=common.ListType(int), help="Instead of the plan's seeds.")
@click.option(
    "--split",
    type=click.Choice(["report", "validation"]),
    help="Test images that count: the part that settings are chosen on, or the rest.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Begin nothing that would probably end later; the next run goes on.",
)
@click.option("--tables-only", is_flag=True, help="Train nothing; report what is there.")
@common.jobs_option
@common.device_option
@common.quiet_option
@common.domain_errors
def compare(
    plan,
    out,
    data,
    sets,
    arms,
    baseline,
    coresets,
    seeds,
    split,
    max_minutes,
    tables_only,
    jobs,
    device,
    quiet,
) -> None:
    """Compare ways to make a detector, over seeds, with intervals and verdicts.

    PLAN is a TOML file (docs/studies.md): data, sets, arms, coresets, seeds, and the tables that
    answer a question each. What is missing is built, trained and scored; what is there is kept, so
    an interrupted study goes on with the same command.

    \b
    cutswap-det compare docs/studies/paper.toml --data mtd=tiles/ --out study
    cutswap-det compare --data part=photos/ --arm untuned:updates=0 \\
        --arm tuned:updates=128 --seeds 0,1,2 --out study
    """
    from detector.study.compare import assemble_plan
    from detector.study.compare import compare as run_comparison
    from detector.study.report import verdict_lines
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    found = run_comparison(
        assemble_plan(
            plan,
            data=data,
            sets=sets,
            arms=arms,
            coresets=coresets,
            seeds=seeds,
            baseline=baseline,
            split=split,
        ),
        out,
        device=resolve_device(device),
        jobs=jobs,
        quiet=quiet,
        max_minutes=max_minutes,
        is_tables_only=tables_only,
        make_progress=lambda label, unit: common.Progress(label, unit, quiet=quiet),
    )
    for outcome in found.outcomes:
        for line in verdict_lines(outcome, found.plan):
            click.echo(line)
    run = found.run
    if not run.is_whole:
        click.echo(
            f"{run.total - run.done} of {run.total} cells are missing; run the same command again",
            err=True,
        )
    click.echo(f"report in {found.report}")
    for label, message in run.failed:
        click.echo(f"failed: {label}: {message}", err=True)
    if run.failed:
        raise SystemExit(1)


def _pair(folders: list[Path], found, models: Path):
    """Model folders with the data category of the same name; one of each needs no same name."""
    named = {category.name: category for category in found}
    if len(folders) == 1 and len(found) == 1:
        return [(folders[0], found[0])]
    pairs = [(folder, named[folder.name]) for folder in folders if folder.name in named]
    missing = [folder.name for folder in folders if folder.name not in named]
    if missing:
        raise ModelError(
            f"no data for model {missing[0]}",
            path=models,
            expected=f"one of {', '.join(sorted(named))}",
            hint="give its data, or choose with --category",
        )
    return pairs


if __name__ == "__main__":
    main()
