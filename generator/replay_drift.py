"""Whether a recipe's images decode to the recorded pixels here, looked at before all else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from generator.replay_unit import ReplayConfig, ReplayUnit, load_normal
from manifests.errors import BadImages, CutswapError, ImageError
from manifests.progress import ProgressMaker
from manifests.recipe import RecipeNormal


def check_drift(
    units: Sequence[ReplayUnit],
    *,
    config: ReplayConfig,
    jobs: int = 1,
    make_progress: ProgressMaker | None = None,
) -> None:
    """Decodes and fits every image and compares it with the recorded one; writes nothing.

    It costs a second decoding, and so is for where a failure halfway would cost more.

    Args:
        units: those that are to be rendered.
        config: how; it must not allow drift.
        jobs: threads.
        make_progress: see `ProgressMaker`.

    Raises:
        BadImages: with every image that has other pixels here, or cannot be used.
    """
    from joblib import Parallel, delayed

    rows = {
        row.digest: (row, unit.paths[row.digest])
        for unit in units
        for row in (*unit.normals, *unit.lenders)
    }
    progress = make_progress and make_progress("check images", "images")
    # Decoding, resizing and hashing all release the interpreter lock: threads are enough.
    results = Parallel(n_jobs=jobs, backend="threading", return_as="generator")(
        delayed(_problem)(row, path, config) for row, path in rows.values()
    )
    problems = []
    for done, problem in enumerate(results, start=1):
        if problem is not None:
            problems.append(problem)
        if progress is not None:
            progress(done, len(rows))
    if problems:
        raise BadImages(
            problems,
            hint="the set that is there was left as it is: install the recorded versions, or pass "
            "--allow-drift to replace it by a set with a digest of its own",
        )


def _problem(row: RecipeNormal, path: Path, config: ReplayConfig) -> ImageError | None:
    try:
        load_normal(row, path, config)
    except CutswapError as error:
        # The way out is the same for all and is said once.
        return ImageError(error.what, path=error.path, expected=error.expected, got=error.got)
    return None
