"""Commands of `cutswap-det` about models: which there are, what is in one, new thresholds."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from detector.about import ABOUT
from manifests import command_line as common
from manifests.errors import ModelError
from manifests.option_types import DIGEST
from manifests.terminal import counted


@click.command()
@common.json_option
@common.domain_errors
def detectors(as_json: bool) -> None:
    """List the detectors: what each does, what it learns from, where it comes from.

    \b
    cutswap-det detectors
    """
    width = max(map(len, ABOUT))

    def words(name: str) -> list[str]:
        one = ABOUT[name]
        return [
            f"{name:<{width}}  {one.summary}",
            f"{'':<{width}}  needs {one.needs}",
            f"{'':<{width}}  source: {one.source}",
        ]

    common.report(
        ABOUT,
        as_json=as_json,
        words=words,
        plain=lambda name: {"name": name, **asdict(ABOUT[name])},
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@common.category_option
@common.json_option
@common.domain_errors
def inspect(model: Path, categories: tuple[str, ...], as_json: bool) -> None:
    """Say what is in a model, with its digest.

    MODEL is a model folder, or a root of several.

    \b
    cutswap-det inspect models/bracket
    """
    from detector.describe import describe_model, model_json
    from detector.model_folder import find_models
    from detector.model_record import read_record

    folders = common.chosen(find_models(model), categories, model)
    common.report(
        ((folder, *read_record(folder)) for folder in folders),
        as_json=as_json,
        words=lambda row: describe_model(*row),
        plain=lambda row: model_json(*row),
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@common.category_option
@click.option(
    "--expect", type=DIGEST, help="Count a model of another model digest than this as a problem."
)
@common.json_option
@common.domain_errors
def verify(model: Path, categories: tuple[str, ...], expect: str | None, as_json: bool) -> None:
    """Check a model: every file, every digest.

    MODEL is a model folder, or a root of several. Lists all problems, not only the first. Exit
    code 0: nothing wrong; 1: something is.

    \b
    cutswap-det verify models/
    """
    from detector.model_folder import find_models
    from detector.verify_model import verify_model

    folders = common.chosen(find_models(model), categories, model)
    common.check_expect_one(expect, folders, noun="model", path=model)
    count = common.report_problems(
        ((folder, verify_model(folder, expect=expect)) for folder in folders), as_json=as_json
    )
    if count:
        raise ModelError(
            f"{counted(count, 'problem')} found",
            path=model,
            hint="do not use this model",
        )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.out_option("Folder for the model with the new thresholds.", required=True)
@click.option(
    "--false-alarm-rate",
    type=float,
    help="Share of good parts that may exceed the thresholds.  [default: the model's]",
)
@common.jobs_option
@common.device_option
@common.megapixel_option
@common.overwrite_option
@common.json_option
@common.quiet_option
@common.domain_errors
def recalibrate(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    false_alarm_rate: float | None,
    jobs: int | None,
    device: str,
    max_megapixels: float,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Set a model's thresholds anew, from good images that it has not seen.

    MODEL is a model folder; PATHS are good images or folders of them, from the line as it is
    today. Network and detector stay as they are, and so does MODEL.

    \b
    cutswap-det recalibrate models/part line3/good/ --out recalibrated
    """
    from detector.describe import describe_recalibration
    from detector.model_folder import find_model
    from detector.recalibrate import recalibrate_model
    from manifests.allocator import keep_freed_memory
    from manifests.progress import Progress
    from manifests.weights import resolve_device

    keep_freed_memory()
    done = recalibrate_model(
        find_model(model),
        paths,
        out,
        rate=false_alarm_rate,
        device=resolve_device(device),
        readers=jobs or os.cpu_count() or 1,
        max_pixels=round(max_megapixels * 1e6),
        overwrite=overwrite,
        progress=Progress("score", "images", quiet=quiet),
    )
    common.report(
        [done],
        as_json=as_json,
        words=describe_recalibration,
        plain=lambda one: one.to_json(),
    )
