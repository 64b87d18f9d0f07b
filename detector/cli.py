"""`cutswap-det`: fit, score, eval."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import click

from manifests import command_line as common
from manifests.errors import ConfigError, ModelError

PRESETS: dict[str, dict] = {
    "paper": {"network": "resnet18", "schedule": "paper", "coreset": 0.001},
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cutswap", prog_name="cutswap-det")
def main() -> None:
    """Train a detector from negative sets, then score, localise and evaluate.

    \b
    cutswap-det fit shards --out models          extractor, memory bank, thresholds
    cutswap-det score models/part photos/        a verdict per image
    cutswap-det eval models mvtec/ --out results  AUROC, AUPRO, curves, cases
    """


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@common.out_option("Folder for the models, one subfolder per category.", required=True)
@common.seed_option
@click.option(
    "--network",
    default="efficientnet_lite0",
    show_default=True,
    help="Extractor: efficientnet_lite0 (embedded), resnet18 (paper), or any timm name.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="File with the network's weights (.pth or .safetensors).",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="paper: ResNet18, its schedule, coreset 0.001.",
)
@click.option(
    "--schedule",
    type=click.Choice(["gentle", "paper"]),
    help="Training schedule; single options below win over it.  [default: gentle]",
)
@click.option(
    "--updates",
    type=click.IntRange(min=0),
    help="Training updates; 0 leaves the extractor untuned.  [default: of the schedule]",
)
@click.option("--lr", type=float, help="Learning rate.  [default: of the schedule]")
@click.option(
    "--freeze-bn/--train-bn",
    default=None,
    help="Batch-norm statistics in training.  [default: of the schedule]",
)
@click.option(
    "--frozen-start",
    type=click.IntRange(min=0),
    help="Updates that train the head only.  [default: of the schedule]",
)
@click.option(
    "--freeze-stages",
    type=click.IntRange(min=0, max=5),
    help="Keep the stem and the stages below this one as they are.  [default: of the schedule]",
)
@click.option("--batch", default=32, show_default=True, help="Normals, and as many of each kind.")
@click.option("--momentum", default=0.9, show_default=True, help="SGD momentum.")
@click.option("--weight-decay", default=3e-5, show_default=True, help="SGD weight decay.")
@click.option("--jitter", default=0.1, show_default=True, help="Colour jitter, all classes alike.")
@click.option(
    "--checkpoint-every", default=8, show_default=True, help="Updates between checkpoints."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of training; auto takes bf16 where the processor is fast at it.",
)
@click.option(
    "--feature-precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the features in the bank and in scoring.",
)
@click.option(
    "--stages",
    type=common.ListType(int),
    default="2,3",
    show_default=True,
    help="Stages that feed the bank; stage s has stride 2^(s+1).",
)
@click.option("--coreset", default=0.01, show_default=True, help="Share of patches in the bank.")
@click.option("--coreset-max", type=click.IntRange(min=1), help="At most this many patches.")
@click.option(
    "--projection-dim", default=128, show_default=True, help="Dimensions of the coreset search."
)
@click.option("--sigma", default=4.0, show_default=True, help="Blur of the map in px at 256 px.")
@click.option("--reweight", is_flag=True, help="PatchCore's neighbourhood reweighting.")
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good parts that may exceed the thresholds.",
)
@click.option("--batch-images", default=8, show_default=True, help="Images per feature pass.")
@common.device_option
@common.category_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@click.pass_context
@common.domain_errors
def fit(context: click.Context, **options) -> None:
    """Train the extractor on negative sets and build the memory bank.

    SHARDS is what `cutswap-gen build` wrote: one category's folder or a root of several. An
    interrupted run goes on from its last checkpoint.

    \b
    cutswap-det fit shards --out models
    cutswap-det fit shards --out untuned --updates 0 --coreset 0.001
    """
    common.apply_preset(context, options, PRESETS)
    from detector.describe import describe_fit
    from detector.pipeline import fit_model
    from manifests.allocator import keep_freed_memory
    from manifests.negative_set import find_sets
    from manifests.weights import resolve_device

    keep_freed_memory()
    device = resolve_device(options["device"])
    config = _fit_config(options, device)
    folders = _chosen(find_sets(options["shards"]), options["categories"])
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
            make_progress=lambda label, unit: common.Progress(label, unit, quiet=quiet),
        )
        summaries.append(summary)
        for warning in summary.warnings:
            click.echo(f"warning: {warning}", err=True)
        if not options["as_json"]:
            click.echo(describe_fit(summary))
    if options["as_json"]:
        click.echo(json.dumps([summary.to_json() for summary in summaries], indent=1))


def _fit_config(options: dict, device: str):
    from detector.config import DEFAULT_SCHEDULE, FitConfig, scheduled
    from detector.train_config import TrainConfig
    from manifests.weights import has_fast_bf16

    precision = options["precision"]
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    train = scheduled(TrainConfig(), options["schedule"] or DEFAULT_SCHEDULE)
    overrides = {
        name: options[name]
        for name in ("updates", "lr", "freeze_bn", "frozen_start", "freeze_stages")
        if options[name] is not None
    }
    train = replace(
        train,
        batch=options["batch"],
        momentum=options["momentum"],
        weight_decay=options["weight_decay"],
        jitter=options["jitter"],
        checkpoint_every=options["checkpoint_every"],
        precision=precision,
        seed=options["seed"],
        **overrides,
    )
    return FitConfig(
        network=options["network"],
        train=train,
        stages=options["stages"],
        coreset_ratio=options["coreset"],
        coreset_max=options["coreset_max"],
        projection_dim=options["projection_dim"],
        sigma_px=options["sigma"],
        reweight=options["reweight"],
        false_alarm_rate=options["false_alarm_rate"],
        precision=options["feature_precision"],
        batch=options["batch_images"],
        seed=options["seed"],
    )


def _chosen(folders: list[Path], categories: tuple[str, ...]) -> list[Path]:
    if not categories:
        return folders
    named = {folder.name: folder for folder in folders}
    missing = [name for name in categories if name not in named]
    if missing:
        raise ConfigError(
            f"no category {missing[0]} here",
            expected=", ".join(sorted(named)),
            hint="change --category",
        )
    return [named[name] for name in categories]


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
    from detector.model import find_models
    from detector.pipeline import score_images
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
    from detector.model import find_models
    from detector.pipeline import evaluate_models
    from detector.report import results_table
    from manifests.allocator import keep_freed_memory
    from manifests.datasets import open_data
    from manifests.weights import resolve_device

    keep_freed_memory()
    folders = find_models(models)
    if categories:
        folders = _chosen(folders, categories)
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
