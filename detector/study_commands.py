"""The command of `cutswap-det` that compares ways to make a detector."""

from __future__ import annotations

from pathlib import Path

import click

from manifests import command_line as common
from manifests.option_types import ListType
from manifests.progress import progress_maker


@click.command()
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
@click.option("--coresets", type=ListType(float), help="Instead of the plan's coresets.")
@click.option("--seeds", type=ListType(int), help="Instead of the plan's seeds.")
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
    plan: Path | None,
    out: Path,
    data: tuple[str, ...],
    sets: tuple[str, ...],
    arms: tuple[str, ...],
    baseline: str | None,
    coresets: tuple[float, ...] | None,
    seeds: tuple[int, ...] | None,
    split: str | None,
    max_minutes: float | None,
    tables_only: bool,
    jobs: int | None,
    device: str,
    quiet: bool,
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
        make_progress=progress_maker(quiet=quiet),
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
