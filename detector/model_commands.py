"""Commands of `cutswap-det` that look: at what there is, at a model, and whether it is whole."""

from __future__ import annotations

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
    """List the detectors: what each does, what it learns from, where it comes from."""
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
def inspect(model: Path, categories, as_json: bool) -> None:
    """Say what is in a model, with its digest.

    MODEL is a model folder, or a root of several.
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
def verify(model: Path, categories, expect, as_json: bool) -> None:
    """Check a model: every file, every digest.

    MODEL is a model folder, or a root of several. Lists all problems, not only the first. Exit
    code 0: nothing wrong; 1: something is.
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
