"""`cutswap-det bank`: what can be done with a fitted memory bank."""

from __future__ import annotations

import os
from pathlib import Path

import click

from detector.explain_command import data_option, opened_set, set_option
from manifests import command_line as common
from manifests.progress import progress_maker


@click.group()
def bank() -> None:
    """Change the memory bank of a fitted patchcore model.

    \b
    cutswap-det bank update models/part line3/good/ --out updated
    """


@bank.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.out_option("Folder for the model with the larger bank.", required=True)
@click.option(
    "--entries",
    type=click.IntRange(min=1),
    help="How many patches to add.  [default: the share that the fit kept]",
)
@click.option(
    "--coreset",
    type=float,
    help="Share of the new patches to add.  [default: that of the fit]",
)
@click.option(
    "--outlier-factor",
    type=float,
    default=1.25,
    show_default=True,
    help="Refuse images that score above this many thresholds: they look like defects.",
)
@click.option("--allow-outliers", is_flag=True, help="Add them all the same; they are named.")
@set_option("The negative set of the fit: makes the thresholds exact.")
@data_option("Folder of the normal images of the fit: does the same.")
@common.jobs_option
@common.device_option
@common.megapixel_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def update(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    entries: int | None,
    coreset: float | None,
    outlier_factor: float,
    allow_outliers: bool,
    shards: Path | str | None,
    data: Path | None,
    jobs: int | None,
    device: str,
    max_megapixels: float,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Add good images to a patchcore model, without fitting it again.

    MODEL is a model folder; PATHS are good images or folders of them that it has not seen. The
    network stays as it is, MODEL stays whole, and what the new patches change is told: how far
    they were from the bank and are now, how many of the images exceeded the threshold, and the
    thresholds. These come from the new images and from those of the fit; without --set or --data
    the old scores stand for the latter, as upper bounds.

    \b
    cutswap-det bank update models/part line3/good/ --out updated
    cutswap-det bank update models/part line3/good/ --out updated --set shards
    """
    from detector.bank_update import update_bank
    from detector.describe_update import describe_update
    from detector.model_folder import find_model
    from detector.model_record import read_record
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    keep_freed_memory()
    folder = find_model(model)
    category = read_record(folder)[0].category if shards is not None else ""
    with opened_set(shards, category, quiet=quiet) as negative_set:
        done = update_bank(
            folder,
            paths,
            out,
            entries=entries,
            coreset_ratio=coreset,
            outlier_factor=outlier_factor,
            allow_outliers=allow_outliers,
            negative_set=negative_set,
            data=data,
            device=resolve_device(device),
            readers=jobs or os.cpu_count() or 1,
            max_pixels=round(max_megapixels * 1e6),
            overwrite=overwrite,
            make_progress=progress_maker(quiet=quiet),
        )
    for path in done.repeats:
        common.say([f"left out {path}: the model has seen it, or it was given twice"], err=True)
    for path in done.outliers:
        common.say([f"warning: {path}: looks like a defect, and was added"], err=True)
    common.report([done], as_json=as_json, words=describe_update, plain=lambda one: one.to_json())
