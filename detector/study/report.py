"""A study's report: one Markdown page with a table, a plot and verdicts per question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.study.cells import Cell
from detector.study.outcome import REPLICATES, TableOutcome
from detector.study.plan import Plan
from detector.study.plots import plot_curves, plot_differences
from detector.study.runner import RunSummary
from detector.study.tables import csv_text, markdown_table, verdict_line
from manifests.atomic import write_atomic
from manifests.durations import duration
from manifests.errors import OutputError
from manifests.terminal import counted

REPORT = "report.md"
_LOG_FROM = 8  # values that reach over this factor are drawn on a logarithmic axis


def write_report(
    out: Path, plan: Plan, outcomes: Sequence[TableOutcome], cells: Sequence[Cell], run: RunSummary
) -> Path:
    """Writes `report.md`, `tables/*.csv` and `plots/*.png`.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        for folder in ("tables", "plots"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=out) from error
    lines = [f"# {plan.name}", "", *_about(plan, outcomes, cells, run)]
    name = None
    for outcome in outcomes:
        if outcome.table.name != name:
            name = outcome.table.name
            lines += [f"## {outcome.table.title}", ""]
            lines += [outcome.table.note, ""] if outcome.table.note else []
        lines += _section(out, plan, outcome)
    path = out / REPORT
    write_atomic(path, ("\n".join(lines).rstrip() + "\n").encode())
    return path


def verdict_lines(outcome: TableOutcome, plan: Plan) -> list[str]:
    """The claims of one table at one coreset, a line each."""
    lines = []
    for claim, row in outcome.claims:
        for metric in claim.metrics:
            if row.differences.get(metric) is None:
                continue
            line = verdict_line(
                row,
                metric,
                data=outcome.data,
                network=outcome.network,
                coreset=outcome.coreset,
                baseline=plan.by_name[claim.against].label,
            )
            lines.append(line + (f". Paper: {claim.paper}" if claim.paper else ""))
    for claim in outcome.unjudged:
        arm, against = (plan.by_name[name].label for name in (claim.arm, claim.against))
        relation = "better than" if claim.kind == "better" else "not worse than"
        lines.append(f"Not judged: {arm} {relation} {against}, for want of scores")
    return lines


def plot_curve(path: Path, plan: Plan, outcome: TableOutcome, *, title: str) -> bool:
    """Writes a table's metrics against the option it names; False where there is no curve.

    Arms stand in the order of their values. An untrained baseline is drawn as a band, unless the
    option is the length of training, of which it is the beginning.
    """
    table = outcome.table
    by_arm = dict(zip(outcome.arms, outcome.rows, strict=True))
    reference = None
    if table.curve != "updates" and plan.option(table.baseline, "updates") == 0:
        row = by_arm.pop(table.baseline)
        reference = (row.label, row.estimates)
    points = [(plan.option(name, table.curve), row) for name, row in by_arm.items()]
    points = [(value, row) for value, row in points if value is not None]
    if not table.curve or len(points) < 2:
        return False
    is_number = all(type(value) in (int, float) for value, _ in points)
    if is_number:
        points.sort(key=lambda point: point[0])
    xs: list[Any] = [value if is_number else _as_text(value) for value, _ in points]
    plot_curves(
        path,
        xs,
        {metric: [row.estimates.get(metric) for _, row in points] for metric in table.metrics},
        title=f"{table.title} – {title}",
        x_label=f"--{table.curve.replace('_', '-')}",
        is_log=is_number and xs[0] > 0 and xs[-1] >= _LOG_FROM * xs[0],
        reference=reference,
    )
    return True


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _about(
    plan: Plan, outcomes: Sequence[TableOutcome], cells: Sequence[Cell], run: RunSummary
) -> list[str]:
    share = f"{100 * plan.validation_share:g} %"
    if plan.split == "validation":
        part = (
            f"These figures choose settings. They are of the validation part alone, {share} of the "
            f"test images by defect type (seed {plan.validation_seed}), and are not to be reported "
            "as results."
        )
    else:
        part = (
            f"The validation part ({share} of the test images by defect type, seed "
            f"{plan.validation_seed}), on which settings are chosen, is left out of every figure."
        )
    lines = [plan.note, ""] if plan.note else []
    lines += [part, ""]
    if outcomes:
        lines += [
            "Differences are paired by seed and by test image. Intervals are 95 %: Student's t "
            "over seeds and a bootstrap of the test parts within each defect type "
            f"({REPLICATES} draws), their half-widths added as squares; all images of one part are "
            "drawn together. Where two arms are in "
            "truth equal, about one interval in twenty excludes 0 by chance. A seed is that of the "
            "coreset and, where an extractor is trained, of its training. The negative sets are "
            "built once and are the same for all seeds.",
            "",
        ]
        if plan.bank_draws > 1:
            lines += [
                f"A seed's figure is the mean over {plan.bank_draws} memory banks that start from "
                "different patches.",
                "",
            ]
    else:
        lines += [
            "No table: no arm and its baseline are finished, or the part of the test images that "
            "counts has no good or no defective ones.",
            "",
        ]
    if not run.is_whole:
        lines += [f"**{run.total - run.done} of {run.total} cells are still missing.**", ""]
    if run.failed:
        lines += ["Failed:", ""]
        lines += [f"- {label}: {' '.join(message.split())}" for label, message in run.failed]
        lines += [""]
    seconds = _seconds(cells)
    if seconds:
        lines += [
            f"Training, features, banks and scores took {duration(seconds)} of computing.",
            "",
        ]
    return lines


def _seconds(cells: Sequence[Cell]) -> float:
    trained: dict[str, float] = {}
    scored: dict[str, float] = {}
    for cell in cells:
        if cell.is_done and cell.record_path.is_file():
            record = json.loads(cell.record_path.read_bytes())
            trained[cell.extractor_key] = record["train_seconds"]
            features = record.get("feature_seconds", 0.0)
            scored[cell.key] = record["bank_and_score_seconds"] + features
    return sum(trained.values()) + sum(scored.values())


def _section(out: Path, plan: Plan, outcome: TableOutcome) -> list[str]:
    table = outcome.table
    baseline = plan.by_name[table.baseline].label
    stem = f"{outcome.data.replace(' ', '-')}-{table.name}-{outcome.coreset:g}"
    title = f"{outcome.data}, coreset {outcome.coreset:g}"
    n_images = outcome.n_good + outcome.n_defective
    counts = f"{outcome.n_good} good and {outcome.n_defective} defective test images"
    counts += f" of {outcome.n_parts} parts" if outcome.n_parts < n_images else ""
    if outcome.n_unknown:
        counts += f"; {outcome.n_unknown} without ground truth on the canvas of some arm"
    if outcome.n_seen:
        counts += f"; {counted(outcome.n_seen, 'other')} left out, as they were trained on"
    note = (
        counts + (f"; not run yet: {'; '.join(outcome.missing)}" if outcome.missing else "") + "."
    )
    lines = [
        markdown_table(title, outcome.rows, table.metrics, baseline=baseline, note=note),
        f"![differences to {baseline}](plots/{stem}.png)",
        "",
    ]
    write_atomic(
        out / "tables" / f"{stem}.csv",
        csv_text(outcome.rows, table.metrics, baseline=baseline).encode(),
    )
    plot_differences(
        out / "plots" / f"{stem}.png",
        outcome.rows,
        table.metrics,
        title=f"{table.title} – {title}",
        baseline=baseline,
    )
    if plot_curve(out / "plots" / f"{stem}-curve.png", plan, outcome, title=title):
        lines += [f"![metrics against {table.curve}](plots/{stem}-curve.png)", ""]
    verdicts = verdict_lines(outcome, plan)
    if verdicts:
        lines += [f"- {line}" for line in verdicts] + [""]
    return lines
