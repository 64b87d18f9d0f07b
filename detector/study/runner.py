"""Orders a study: sets, extractors, features, banks, scores; what is there is left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.evaluate import TestImages, load_test_images
from detector.study.arm_config import arm_config
from detector.study.builds import SetRequest, ensure_set, request_set
from detector.study.cells import Cell, StudyData, make_cell, study_data
from detector.study.extractors import Extractors
from detector.study.plan import Plan
from detector.study.scoring import score_cells
from manifests.atomic import write_atomic
from manifests.datasets import open_data
from manifests.errors import OutputError
from manifests.images import Geometry
from manifests.negative_set import NegativeSet

ProgressMaker = Callable[[str, str], Callable[..., None]]


@dataclass(frozen=True)
class RunSummary:
    """How far a run came.

    Attributes:
        fresh: cells that this run scored.
        is_whole: no cell is missing.
    """

    fresh: int
    done: int
    total: int

    @property
    def is_whole(self) -> bool:
        return self.done == self.total


class Runner:
    """Makes the cells of a plan that are missing below a folder.

    Args:
        plan: what to compare.
        out: folder of the study; sets, extractors and scores stay there for the next run.
        device: "cpu" or "cuda".
        jobs: workers of a build.

    Raises:
        ConfigError: an arm or a set with options that do not exist or do not fit.
        DataError: data that cannot be read.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        *,
        device: str,
        jobs: int | None,
        quiet: bool,
        make_progress: ProgressMaker,
    ) -> None:
        self.plan = plan
        self._out = out
        self._device = device
        self._jobs = jobs
        self._quiet = quiet
        self._make_progress = make_progress
        try:
            for name in ("cells", "extractors", "sets"):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot be written: {error.strerror or error}",
                path=out,
                hint="choose another --out",
            ) from error
        self._extractors = Extractors(
            out / "extractors", device=device, make_progress=make_progress
        )
        self._requests: dict[tuple[str, str], SetRequest] = {}
        self.data: dict[str, list[StudyData]] = {}
        self.cells = self._plan_cells()

    def _plan_cells(self) -> list[Cell]:
        cells = []
        for spec in self.plan.data:
            categories = open_data(
                spec.path,
                format=spec.format,
                train_list=spec.train_list,
                categories=spec.categories,
            )
            self.data[spec.name] = [study_data(category) for category in categories]
            for name, options in self.plan.sets.items():
                self._requests[spec.name, name] = request_set(spec, name, options, self._out)
            for data in self.data[spec.name]:
                for arm in self.plan.arms:
                    request = self._requests[spec.name, arm.set_name]
                    for seed in self.plan.seeds:
                        cells += self._cells_of(data, arm, request, seed)
        return cells

    def _cells_of(self, data: StudyData, arm, request: SetRequest, seed: int) -> list[Cell]:
        cells = []
        for coreset in self.plan.coresets:
            config, weights = arm_config(
                arm.name, arm.options, coreset=coreset, seed=seed, device=self._device
            )
            has_bank = config.detector == "patchcore"
            cells += [
                make_cell(
                    data,
                    arm,
                    request,
                    config,
                    weights,
                    coreset=coreset if has_bank else None,
                    seed=seed,
                    draw=draw,
                    network_digest=self._extractors.untuned(config.network, weights).digest,
                    out=self._out,
                )
                for draw in range(self.plan.bank_draws if has_bank else 1)
            ]
            if not has_bank:
                break
        return cells

    def run(self, *, max_minutes: float | None = None) -> RunSummary:
        """Makes what is missing, or as much as fits into the time.

        Args:
            max_minutes: no extractor is begun that would probably end later. The first one is
                begun in any case, and what is begun is finished.

        Raises:
            BuildFailed: a set could not be built.
            ModelError: a detector could not be made from a set.
        """
        started = time.monotonic()
        missing = [cell for cell in self.cells if not cell.is_done]
        groups = _by_extractor(missing)
        total = len({cell.key for cell in self.cells})
        done = total - len({cell.key for cell in missing})
        fresh, slowest = 0, 0.0
        overall = self._make_progress("compare", "cells")
        if groups:
            overall(done, total)
        tests: dict[tuple, TestImages] = {}
        for group in groups:
            begun = time.monotonic()
            elapsed = begun - started
            if max_minutes is not None and fresh and elapsed + slowest > 60 * max_minutes:
                break
            made = self._make(group, tests)
            fresh += made
            done += made
            slowest = max(slowest, time.monotonic() - begun)
            overall(done, total)
        return RunSummary(fresh=fresh, done=done, total=total)

    def _make(self, group: Sequence[Cell], tests: dict[tuple, TestImages]) -> int:
        first = group[0]
        folder = self._set_folder(first)
        with NegativeSet.open(folder, check="quick") as negative_set:
            extractor = self._extractors.get(first, negative_set)
            images = self._tests(first.data, negative_set.geometry, tests)
            scored = score_cells(
                group,
                extractor,
                negative_set,
                images,
                device=self._device,
                make_progress=self._make_progress,
            )
            count = 0
            for cell, scores, seconds in scored:
                record = {
                    "data": cell.data.category.name,
                    "arm": cell.arm.name,
                    "coreset": cell.coreset,
                    "seed": cell.seed,
                    "draw": cell.draw,
                    "config": cell.config.to_json(),
                    "set": dict(cell.set_request.options),
                    "set_digest": negative_set.digest,
                    "network_digest": extractor.network.digest,
                    "accuracy": extractor.accuracy,
                    "train_seconds": extractor.seconds,
                    "bank_and_score_seconds": round(seconds, 2),
                    "metrics": scores.exact,
                }
                text = json.dumps(record, indent=1, sort_keys=True) + "\n"
                write_atomic(cell.record_path, text.encode())
                scores.save(cell.path)
                count += 1
        return count

    def _set_folder(self, cell: Cell) -> Path:
        spec = cell.set_request.data
        files = {data.category.name: data.training_files for data in self.data[spec.name]}
        others = [request for (name, _), request in self._requests.items() if name == spec.name]
        folders = ensure_set(
            cell.set_request,
            others,
            training_files=files,
            jobs=self._jobs,
            device=self._device,
            quiet=self._quiet,
        )
        return folders[cell.data.category.name]

    def _tests(
        self, data: StudyData, geometry: Geometry, tests: dict[tuple, TestImages]
    ) -> TestImages:
        key = (data.digest, geometry)
        if key not in tests:
            tests.clear()  # one canvas at a time: test sets can be large
            tests[key] = load_test_images(
                geometry, frozenset(data.training_files), data.category, batch=16
            )
        return tests[key]


def _by_extractor(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share data, set geometry and extractor, in the order of the first of each."""
    groups: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        options = cell.set_request.options
        canvas = (options.get("image_size"), options.get("fit"))
        # One canvas after the other: test images are loaded once for each.
        key = (cell.data.digest, str(canvas), cell.extractor_key)
        groups.setdefault(key, {}).setdefault(cell.key, cell)
    return [list(group.values()) for group in groups.values()]
