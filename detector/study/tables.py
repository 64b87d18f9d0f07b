"""Results of a comparison as Markdown, as CSV and as sentences that claim no more than they may."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detector.study.statistics import CLAIMS, Difference, Estimate, verdict

METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
}
_NONE = "–"
_CSV_COLUMNS = (
    "arm", "baseline", "metric", "n_seeds", "mean", "sd", "low", "high",
    "difference", "difference_low", "difference_high", "difference_seed_sd",
    "difference_boot_sd", "n_images", "claim", "margin", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One arm of a comparison.

    Attributes:
        label: what readers know the arm by.
        n_seeds: number of training seeds.
        estimates: metric -> estimate; a metric that is missing or None is undefined.
        differences: metric -> difference to the baseline; empty for the baseline itself.
        claim: claim that every difference is held against, of `CLAIMS`; None: none is made.
        margin: of the claim "not-worse", 0 or more.
    """

    label: str
    n_seeds: int
    estimates: Mapping[str, Estimate | None]
    differences: Mapping[str, Difference | None] = field(default_factory=dict)
    claim: str | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.claim is not None and self.claim not in CLAIMS:
            raise ValueError(f"unknown claim {self.claim!r}, expected of {CLAIMS}")

    def verdict(self, metric: str) -> str | None:
        """What the metric's interval says about the claim; None without claim or difference."""
        difference = self.differences.get(metric)
        if self.claim is None or difference is None:
            return None
        return verdict(difference, claim=self.claim, margin=self.margin)


def markdown_table(
    title: str, rows: Sequence[Row], metrics: Sequence[str], *, baseline: str, note: str = ""
) -> str:
    """A Markdown table, a line per arm, with the note that a reader needs to weigh it.

    A cell holds the mean over seeds with its standard deviation, below it the difference to the
    baseline with its 95 % interval, below that the verdict where the row makes a claim. The best
    mean of a column is bold only if the interval of its difference to the baseline excludes 0.

    Args:
        title: heading, without the marks of one.
        rows: in the order of the table; the baseline has no differences.
        metrics: keys of `METRIC_NAMES`.
        baseline: label of the arm that the differences are to.
        note: what else to say below the table.

    Source: ours.
    """
    names = [METRIC_NAMES[metric] for metric in metrics]
    lines = [
        f"### {_plain(title)}",
        "",
        "| " + " | ".join(["arm", "seeds", *names]) + " |",
        "|" + "---|" * (len(metrics) + 2),
    ]
    bold = {metric: _best(rows, metric) for metric in metrics}
    for row in rows:
        cells = [_cell(row, metric, is_bold=row is bold[metric]) for metric in metrics]
        lines.append("| " + " | ".join([_plain(row.label), str(row.n_seeds), *cells]) + " |")
    lines += ["", _note(rows, metrics, baseline)]
    if note:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def verdict_line(
    row: Row, metric: str, *, data: str, network: str, coreset: float, baseline: str
) -> str:
    """One claim, its verdict and what it rests on, in one line.

    Args:
        row: with a claim and a difference of this metric.
        metric: key of `METRIC_NAMES`.
        data, network: names.
        coreset: share of the patches that the memory bank keeps.
        baseline: label of the arm that the difference is to.

    Raises:
        ValueError: the row makes no claim, or the metric is undefined.

    Source: ours.
    """
    found, difference = row.verdict(metric), row.differences.get(metric)
    if found is None or difference is None:
        raise ValueError(f"{row.label!r} makes no claim on {metric}")
    name = METRIC_NAMES[metric]
    claim = f"{row.label} > {baseline} in {name}"
    if row.claim == "not-worse":
        by = f" by more than {row.margin:g}" if row.margin else ""
        claim = f"{row.label} not worse than {baseline}{by} in {name}"
    mean, low, high = _signed(difference.mean, difference.low, difference.high)
    seeds = f"{difference.n_seeds} seed{'s' if difference.n_seeds != 1 else ''}"
    caveat = "" if difference.n_seeds > 1 else "; the interval leaves out the spread over seeds"
    return (
        f"On {data}, {network}, coreset {coreset:g}: {claim}: {found} ({mean}, 95 % interval "
        f"{low} to {high}; {seeds}, {difference.n_images} images{caveat})"
    )


def csv_text(rows: Sequence[Row], metrics: Sequence[str], *, baseline: str) -> str:
    """The same numbers as CSV, a line per arm and metric, empty where there is no number.

    Source: ours.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for row in rows:
        for metric in metrics:
            own, to_base = row.estimates.get(metric), row.differences.get(metric)
            line: list[object] = [row.label, baseline, metric, row.n_seeds]
            line += ["", "", "", ""] if own is None else [own.mean, own.sd, own.low, own.high]
            if to_base is None:
                line += [""] * 9
            else:
                line += [to_base.mean, to_base.low, to_base.high]
                line += [to_base.seed_sd, to_base.boot_sd, to_base.n_images]
                line += [row.claim, row.margin if row.claim == "not-worse" else None]
                line += [row.verdict(metric)]
            writer.writerow([f"{item:.6g}" if isinstance(item, float) else item for item in line])
    return text.getvalue()


def _cell(row: Row, metric: str, *, is_bold: bool) -> str:
    own, to_base = row.estimates.get(metric), row.differences.get(metric)
    if own is None:
        return _NONE
    mean = f"**{own.mean:.3f}**" if is_bold else f"{own.mean:.3f}"
    parts = [mean if own.sd is None else f"{mean} ± {own.sd:.3f}"]
    if to_base is not None:
        value, low, high = _signed(to_base.mean, to_base.low, to_base.high)
        # Seeds of the arm that the baseline has not been run with are in the mean alone.
        fewer = "" if to_base.n_seeds >= own.n else f" over {to_base.n_seeds} seeds"
        parts.append(f"{value} ({low} to {high}){fewer}")
    if (found := row.verdict(metric)) is not None and row.claim is not None:
        by = f" by {row.margin:g}" if row.claim == "not-worse" and row.margin else ""
        parts.append(f"{row.claim.replace('-', ' ')}{by}: {found}")
    return "<br>".join(parts)


def _best(rows: Sequence[Row], metric: str) -> Row | None:
    """The row to print bold, if any."""
    candidates = [
        (estimate.mean, row) for row in rows if (estimate := row.estimates.get(metric)) is not None
    ]
    if not candidates:
        return None
    _, best = max(candidates, key=lambda pair: pair[0])
    difference = best.differences.get(metric)
    return best if difference is not None and difference.low > 0 else None


def _note(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> str:
    made = [
        difference
        for row in rows
        for metric in metrics
        if (difference := row.differences.get(metric)) is not None
    ]
    text = "Mean ± standard deviation over seeds."
    if not made:
        return text
    text = (
        f"Mean ± standard deviation over seeds; below it the difference to {_plain(baseline)} with "
        "its 95 % interval."
    )
    if any(difference.n_seeds == 1 for difference in made):
        text += " With one seed the interval leaves out the spread over seeds."
    text += (
        f" The table makes {len(made)} comparison{'s' if len(made) != 1 else ''}, not corrected "
        "for their number."
    )
    if any(row.claim is not None for row in rows):
        text += (
            " A verdict is about this data set, network and coreset; undecided means that the "
            "interval allows both, not that the arms are equal."
        )
    return text


def _signed(*values: float) -> list[str]:
    """With a sign and 3 decimals, or 4 where 3 would turn one of them into 0."""
    decimals = 4 if any(0 < abs(value) < 0.0005 for value in values) else 3
    return [f"{value:+.{decimals}f}" for value in values]


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
