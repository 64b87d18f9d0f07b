"""The command of `cutswap-gen` that looks at a data set before anything is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from manifests import command_line as common
from manifests.errors import DataError
from manifests.progress import Progress
from manifests.terminal import counted


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.format_option
@click.option(
    "--train-list",
    type=click.Path(path_type=Path),
    help="File naming the training images (layouts mtd and labelled).",
)
@common.seed_option
@common.category_option
@click.option(
    "--false-alarm-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of good parts that a model's thresholds shall let through at most (as of fit).",
)
@common.megapixel_option
@common.jobs_option
@common.json_option
@common.quiet_option
@common.domain_errors
def check(
    data: tuple[Path, ...],
    data_format: str | None,
    train_list: Path | None,
    seed: int,
    categories: tuple[str, ...],
    false_alarm_rate: float,
    max_megapixels: float,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what is wrong with DATA before an hour is spent on it. Reads only.

    Test images that are training images, one image under two labels, files that are no images,
    masks that do not fit, flat images, too few images for the thresholds; and as notes: duplicates
    and near-duplicates, several sizes (with the --fit to take) and kinds of pixels. Exit code 0:
    nothing that would spoil a build or an evaluation; 1: something is.

    \b
    cutswap-gen check mvtec/
    cutswap-gen check photos/line3.csv --json > findings.json
    """
    from generator.check_text import describe_check
    from generator.data_check import DataCheck, check_category
    from manifests.datasets import Category, open_data

    found = open_data(
        data, format=data_format, train_list=train_list, seed=seed, categories=categories
    )
    spoilt = []

    def checked(category: Category) -> DataCheck:
        result = check_category(
            category,
            false_alarm_rate=false_alarm_rate,
            max_pixels=round(max_megapixels * 1e6),
            jobs=jobs or os.cpu_count() or 1,
            progress=Progress(f"check {category.name}", "images", quiet=quiet),
        )
        if result.is_spoilt:
            spoilt.append(category.name)
        return result

    common.report(
        map(checked, found), as_json=as_json, words=describe_check, plain=DataCheck.to_json
    )
    if spoilt:
        raise DataError(
            f"{counted(len(spoilt), 'data set')} with faults: {', '.join(spoilt)}",
            hint="repair what is marked WRONG" if not as_json else "repair what spoils",
        )
