"""`compare`: a plan from a file or from options, run and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.study.outcome import Outcomes, TableOutcome
from detector.study.plain_values import check_name
from detector.study.plan import DataSpec, Plan, parse_options, parse_plan, read_plan
from detector.study.report import write_report
from detector.study.runner import Runner, RunSummary
from detector.study.validation import write_split
from manifests.errors import ConfigError
from manifests.progress import ProgressMaker


@dataclass(frozen=True)
class Comparison:
    """A run and what it found."""

    plan: Plan
    run: RunSummary
    outcomes: tuple[TableOutcome, ...]
    report: Path


def assemble_plan(
    path: Path | None,
    *,
    data: Sequence[str] = (),
    sets: Sequence[str] = (),
    arms: Sequence[str] = (),
    coresets: tuple[float, ...] | None = None,
    seeds: tuple[int, ...] | None = None,
    baseline: str | None = None,
    split: str | None = None,
) -> Plan:
    """A plan from a TOML file, from the command line's options, or from both.

    Args:
        path: the file, or None.
        data: `NAME=PATH[,train_list=FILE][,format=FORMAT]`; replaces the file's of that name.
        sets, arms: `NAME:option=value,...`; only without a file.
        coresets, seeds, split: win over the file's.
        baseline: arm that the others are compared with; only without a file.

    Raises:
        ConfigError: what `read_plan` refuses, options that belong to a file, or no file and no arm.
    """
    specs = [_data_spec(text) for text in data]
    _need_distinct("--data", [spec.name for spec in specs])
    changes: dict[str, Any] = {"coresets": coresets, "seeds": seeds, "split": split}
    changes = {key: value for key, value in changes.items() if value is not None}
    if path is not None:
        given = [("--set", sets), ("--arm", arms), ("--baseline", baseline)]
        for option, value in given:
            if value:
                raise ConfigError(f"{option} belongs into the plan", path=path)
        return read_plan(path, data=specs, changes=changes)
    named = {
        "sets": [parse_options(text, option="--set") for text in sets],
        "arms": [parse_options(text, option="--arm") for text in arms],
    }
    for key, pairs in named.items():
        _need_distinct(f"--{key[:-1]}", [name for name, _ in pairs])
    plain = {
        **{key: dict(pairs) for key, pairs in named.items()},
        **{key: list(value) if key != "split" else value for key, value in changes.items()},
    }
    if baseline is not None:
        plain["baseline"] = baseline
    return parse_plan(plain, folder=Path(), name="comparison", data=specs)


def compare(
    plan: Plan,
    out: Path,
    *,
    device: str,
    jobs: int | None,
    quiet: bool,
    max_minutes: float | None,
    is_tables_only: bool,
    make_progress: ProgressMaker,
) -> Comparison:
    """Makes what is missing of a plan's cells and writes the report of what is there.

    Args:
        out: folder of the study; a later call with the same plan, or another one that shares
            cells with it, goes on from what lies there.
        max_minutes: see `Runner.run`.
        is_tables_only: make nothing, report what is there.

    Raises:
        CutswapError: bad options or data, or a folder that cannot be written. What one set, arm or
            seed cannot do is no error: `Comparison.run.failed` says it.
    """
    runner = Runner(plan, out, device=device, jobs=jobs, quiet=quiet, make_progress=make_progress)
    runner.drop_damaged()
    for sets in runner.data.values():
        for data in sets:
            tests = data.category.test
            write_split(
                out / f"validation-{data.category.name}.csv",
                [sample.source for sample in tests],
                [sample.defect for sample in tests],
                parts=[sample.part for sample in tests],
                seed=plan.validation_seed,
                share=plan.validation_share,
            )
    run = runner.summary() if is_tables_only else runner.run(max_minutes=max_minutes)
    outcomes = tuple(Outcomes(plan, runner.cells).tables())
    report = write_report(out, plan, outcomes, runner.cells, run)
    return Comparison(plan, run, outcomes, report)


def _need_distinct(option: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{option} {name} is given twice", hint="give each a name of its own")


def _data_spec(text: str) -> DataSpec:
    name, is_given, rest = text.partition("=")
    path, *extras = rest.split(",")
    values = dict(extra.partition("=")[::2] for extra in extras)
    unknown = set(values) - {"train_list", "format"}
    if not is_given or not name or not path or unknown:
        raise ConfigError(
            f"--data {text!r} cannot be read", expected="NAME=PATH[,train_list=FILE][,format=NAME]"
        )
    check_name("--data", name)
    train_list = values.get("train_list")
    return DataSpec(
        name=name,
        path=Path(path),
        format=values.get("format"),
        train_list=None if train_list is None else Path(train_list),
    )
