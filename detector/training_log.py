"""`training.csv`: one row per update, readable while training runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from manifests.atomic import atomic_file
from manifests.errors import ModelError, OutputError

TRAINING_CSV = "training.csv"


def log_columns(labels: tuple[str, ...], *, loss: str = "image") -> list[str]:
    """The columns of a log.

    `update` is the number of updates done, from 1; `lr` the rate it was done with; `loss` and the
    accuracies (parts of 1) are those of its batch before the step; `seconds` its wall time.
    `accuracy` is that of images, of all and of every class. `patch_loss` is the part of the sum and
    `patch_accuracy` the mean of the accuracies of edited and of unedited cells; where cells are all
    that is trained, it is `accuracy` too.

    Args:
        labels: the class names by label.
        loss: "image", "patch" or "both", as in the schedule.

    Source: ours.
    """
    columns = ["update", "lr", "loss", "accuracy"]
    if loss != "patch":
        columns += [f"accuracy_{name}" for name in labels]
    if loss == "both":
        columns.append("patch_loss")
    if loss != "image":
        columns.append("patch_accuracy")
    return [*columns, "seconds"]


def write_training_csv(path: Path, columns: list[str], log: np.ndarray) -> None:
    """Write a log anew, so that the file holds these updates and no others.

    Args:
        path: of the file; its folder is made where it is missing.
        columns: their names, see `log_columns`.
        log: (updates, columns) float64, may have no rows.

    Raises:
        OutputError: it cannot be written; an old file is then left as it was.

    Source: ours.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_cells(row) for row in log)
    with atomic_file(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text.getvalue(), encoding="utf-8")


def append_training_csv(path: Path, row: np.ndarray) -> None:
    """Add one update.

    Args:
        path: of a file that `write_training_csv` made.
        row: (columns,) float64.

    Raises:
        OutputError: it cannot be written.

    Source: ours.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(",".join(_cells(row)) + "\n")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            path=path,
            hint="free some space or pass another --out",
        ) from error


def read_training_csv(path: Path) -> list[dict[str, float]]:
    """Read a log.

    Args:
        path: of the file.

    Returns:
        One dict per update, from column to value.

    Raises:
        ModelError: the file is missing or is not such a log.

    Source: ours.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                {column: float(value) for column, value in row.items()}
                for row in csv.DictReader(file, strict=True)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ModelError(
            f"the training log cannot be read: {error}", path=path, hint="fit the model again"
        ) from error


def _cells(row: np.ndarray) -> list[str]:
    return [str(int(row[0])), *(f"{value:.9g}" for value in row[1:])]
