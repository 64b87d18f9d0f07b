"""Orders a study: sets, extractors, features, banks, scores; what is there is left alone."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.config import DETECTOR_OPTIONS
from detector.evaluate import TestImages, load_test_images
from detector.study.arm_config import arm_config
from detector.study.builds import BuildFailed, SetRequest, Sets, request_set
from detector.study.cell_scores import CellScores
from detector.study.cells import Cell, StudyData, make_cell, study_data
from detector.study.extractors import Extractors
from detector.study.plan_types import Arm, DataSpec, Plan
from detector.study.scoring import score_cells
from manifests.atomic import write_atomic
from manifests.datasets import FORMATS, Category, open_data
from manifests.errors import ConfigError, CutswapError, ModelError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker


@dataclass(frozen=True)
class RunSummary:
    """How far a run came.

    Attributes:
        fresh: cells that this run scored.
        failed: of each set that could not be built and each arm and seed that could not be trained
            or scored, its label and the reason in one line.
        is_whole: no cell is missing.
    """

    fresh: int
    done: int
    total: int
    failed: tuple[tuple[str, str], ...] = ()

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
        ConfigError: an arm or a set with options that do not exist or do not fit, or two categories
            of one name.
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
        self._sets = Sets(jobs=jobs, device=device, quiet=quiet)
        self.data: dict[str, list[StudyData]] = {}
        self.cells = self._plan_cells()

    def _plan_cells(self) -> list[Cell]:
        cells = []
        owners: dict[str, str] = {}
        for spec in self.plan.data:
            categories = open_data(
                spec.path,
                format=spec.format,
                train_list=spec.train_list,
                categories=spec.categories,
            )
            for category in categories:
                other = owners.setdefault(category.name, spec.name)
                if other != spec.name:
                    raise ConfigError(
                        f"data {other} and data {spec.name} both have a category {category.name}",
                        hint="rename one folder, or choose among them with categories = [...]",
                    )
            self._check_seeds(spec, categories)
            self.data[spec.name] = [study_data(category) for category in categories]
            files = {data.category.name: data.training_files for data in self.data[spec.name]}
            requests = {
                name: request_set(spec, name, options, self._out, training_files=files)
                for name, options in self.plan.sets.items()
            }
            for request in requests.values():
                self._sets.add(request)
            for data in self.data[spec.name]:
                for arm in self.plan.arms:
                    for seed in self.plan.seeds:
                        cells += self._cells_of(data, arm, requests[arm.set_name], seed)
        return cells

    def _check_seeds(self, spec: DataSpec, categories: Sequence[Category]) -> None:
        """Refuses sets whose seed would draw other training images than the study's."""
        if spec.train_list is not None or not any(
            FORMATS[one.format].draws_split for one in categories
        ):
            return
        for name, options in self.plan.sets.items():
            if "seed" in options:
                raise ConfigError(
                    f"set {name}: --seed would also draw which images of data {spec.name} are "
                    "trained on",
                    hint=f"give [data.{spec.name}] a train_list",
                )

    def _cells_of(self, data: StudyData, arm: Arm, request: SetRequest, seed: int) -> list[Cell]:
        cells = []
        for coreset in self.plan.coresets:
            config, weights = arm_config(
                arm.name, arm.options, coreset=coreset, seed=seed, device=self._device
            )
            has_bank = "coreset_ratio" in DETECTOR_OPTIONS[config.detector]
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

    def drop_damaged(self) -> int:
        """Removes scores that cannot be read, so that they count as missing; says so, and how many.

        Raises:
            OutputError: a file that cannot be removed.
        """
        dropped = 0
        for cell in {cell.key: cell for cell in self.cells if cell.is_done}.values():
            try:
                CellScores.load(cell.path)
                if cell.record_path.is_file() and not isinstance(
                    json.loads(cell.record_path.read_bytes()), dict
                ):
                    raise ValueError("its record is no JSON object")
            except (ModelError, ValueError) as error:
                if isinstance(error.__cause__, OSError):
                    raise  # it may well be whole: the disk or its rights are not
                reason = error.what if isinstance(error, ModelError) else error
                warnings.warn(f"{cell.path}: {reason}; it counts as missing", stacklevel=2)
                try:
                    cell.path.unlink(missing_ok=True)
                except OSError as failure:
                    raise OutputError(
                        f"cannot be removed: {failure.strerror or failure}", path=cell.path
                    ) from failure
                dropped += 1
        return dropped

    def run(self, *, max_minutes: float | None = None) -> RunSummary:
        """Makes what is missing, or as much as fits into the time.

        What cannot be built, trained or scored is left out and reported; the others go on.

        Args:
            max_minutes: no extractor is begun that would probably end later. The first one is
                begun in any case, and what is begun is finished.

        Raises:
            OutputError: the study's folder cannot be written.
        """
        started = time.monotonic()
        groups = _by_extractor([cell for cell in self.cells if not cell.is_done])
        done, total = self._count()
        fresh, slowest = 0, 0.0
        failed: dict[str, str] = {}
        overall = self._make_progress("compare", "cells")
        if groups:
            overall(done, total)
        tests: dict[tuple, TestImages] = {}
        for number, group in enumerate(groups):
            begun = time.monotonic()
            elapsed = begun - started
            if max_minutes is not None and number and elapsed + slowest > 60 * max_minutes:
                break
            try:
                for _ in self._make(group, tests):
                    fresh += 1
            except OutputError:
                raise  # the others have no better place to go
            except BuildFailed as error:
                request = group[0].set_request
                failed[f"{request.data.name}: set {request.name}"] = str(error)
            except CutswapError as error:
                failed[_label(group[0])] = str(error)
            slowest = max(slowest, time.monotonic() - begun)
            done, total = self._count()
            overall(done, total)
        return RunSummary(fresh=fresh, done=done, total=total, failed=tuple(failed.items()))

    def summary(self) -> RunSummary:
        """How far earlier runs came."""
        done, total = self._count()
        return RunSummary(fresh=0, done=done, total=total)

    def _count(self) -> tuple[int, int]:
        """Cells that have scores, and all; another run may be adding to them."""
        paths = {cell.path for cell in self.cells}
        return sum(path.is_file() for path in paths), len(paths)

    def _make(self, group: Sequence[Cell], tests: dict[tuple, TestImages]) -> Iterator[Cell]:
        """Makes the cells of one extractor that are missing, and gives each that it has saved."""
        first = group[0]
        folder = self._sets.get(first.set_request)[first.data.category.name]
        with NegativeSet.open(folder, check="quick") as negative_set:
            extractor = self._extractors.get(first, negative_set)
            # Another run may have made some while this one waited for set and extractor.
            missing = [cell for cell in group if not cell.is_done]
            if not missing:
                return
            scored = score_cells(
                missing,
                extractor,
                negative_set,
                self._tests(first, negative_set, tests),
                device=self._device,
                make_progress=self._make_progress,
            )
            for found in scored:
                cell = found.cell
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
                    "feature_seconds": round(found.feature_seconds, 2),
                    "bank_and_score_seconds": round(found.seconds, 2),
                    "metrics": found.scores.exact,
                }
                text = json.dumps(record, indent=1, sort_keys=True) + "\n"
                write_atomic(cell.record_path, text.encode())
                found.scores.save(cell.path)
                yield cell

    def _tests(
        self, cell: Cell, negative_set: NegativeSet, tests: dict[tuple, TestImages]
    ) -> TestImages:
        key = (cell.data.digest, cell.canvas_key)
        if key not in tests:
            tests.clear()  # one canvas at a time: test sets can be large
            megapixels = cell.set_request.options.get("max_megapixels")
            tests[key] = load_test_images(
                negative_set.geometry,
                frozenset(cell.data.training_files.values()),
                cell.data.category,
                training_pixels=frozenset(negative_set.normal_digests()),
                batch=16,
                max_pixels=(
                    DEFAULT_MAX_PIXELS if megapixels is None else round(float(megapixels) * 1e6)
                ),
            )
        return tests[key]


def _label(cell: Cell) -> str:
    """What all cells of an extractor are called."""
    name = f"{cell.data.category.name}: {cell.arm.name}"
    return name if cell.config.train.updates == 0 else f"{name}, seed {cell.seed}"


def _by_extractor(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share data, canvas and extractor, in the order of the first of each."""
    groups: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        key = (cell.data.digest, cell.canvas_key, cell.extractor_key)
        groups.setdefault(key, {}).setdefault(cell.key, cell)
    return [list(group.values()) for group in groups.values()]
