"""What a study found: cells as table rows, with differences and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.study.cell_scores import CellScores
from detector.study.cells import Cell
from detector.study.plan import Claim, Plan, Table
from detector.study.statistics import Resampled, difference_of, estimate_of, resample
from detector.study.tables import Row
from detector.study.validation import validation_split
from manifests.errors import ModelError

REPLICATES = 1000
MEAN = "mean of the categories"


@dataclass(frozen=True)
class TableOutcome:
    """One table at one coreset on one category, or on the mean of all.

    Attributes:
        data: the category's name, or `MEAN`.
        arms: names of those that have scores, the baseline first.
        rows: their figures, in the same order.
        claims: row of each claim that could be judged, with what was claimed.
        unjudged: claims at this coreset of which an arm has no scores, or no metric is defined.
        missing: labels of arms without scores.
        n_good, n_defective: test images that count.
        n_parts: parts that these show.
        n_unknown: of these images, without ground truth on the canvas of some arm, and so left out
            of all pixel metrics.
        n_seen: test images left out, since some arm was trained on them.
    """

    table: Table
    data: str
    coreset: float
    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[tuple[Claim, Row], ...]
    unjudged: tuple[Claim, ...]
    missing: tuple[str, ...]
    network: str
    n_good: int
    n_defective: int
    n_parts: int = 0
    n_unknown: int = 0
    n_seen: int = 0


class Outcomes:
    """Reads a plan's finished cells and compares them.

    Args:
        plan: what is compared.
        cells: of the plan; those without scores are left out.
        replicates: draws of the bootstrap.

    Raises:
        ModelError: damaged scores, or no image that every arm was scored on.
    """

    def __init__(self, plan: Plan, cells: Sequence[Cell], *, replicates: int = REPLICATES) -> None:
        self._plan = plan
        self._replicates = replicates
        self._cells = [cell for cell in cells if cell.is_done]
        self._by_seed: dict[tuple[str, str, int], dict[float | None, list[Cell]]] = {}
        for cell in self._cells:
            key = (cell.data.category.name, cell.arm.name, cell.seed)
            self._by_seed.setdefault(key, {}).setdefault(cell.coreset, []).append(cell)
        self._resampled: dict[tuple, Resampled] = {}
        self._tests = {cell.data.category.name: cell.data.category for cell in cells}
        self.categories = tuple(self._tests)
        self._parts: dict[str, dict[str, str]] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._shared: dict[str, dict[str, bool]] = {}

    def tables(self) -> list[TableOutcome]:
        """Every table at every coreset on every category, and on their mean where several.

        Left out are those in which no arm can be compared: for want of scores, or of good or
        defective test images in the part that counts.
        """
        found = []
        several = (MEAN,) if len(self.categories) > 1 else ()
        for table in self._plan.tables:
            for data in (*self.categories, *several):
                for coreset in table.coresets:
                    outcome = self._table(table, data, coreset)
                    if outcome is not None:
                        found.append(outcome)
        return found

    def _table(self, table: Table, data: str, coreset: float) -> TableOutcome | None:
        wanted = dict.fromkeys((table.baseline, *table.arms))
        seeds = {name: self._seeds(data, name, coreset) for name in wanted}
        present = [name for name in wanted if seeds[name]]
        if table.baseline not in present or len(present) < 2:
            return None
        rows = []
        for name in present:
            rows.append(self._row(table, data, coreset, name, seeds, claim=None))
        if not any(found for row in rows for found in row.differences.values()):
            return None
        claims, unjudged = [], []
        for claim in table.claims:
            if coreset not in (claim.coresets or table.coresets):
                continue
            own = {n: self._seeds(data, n, coreset) for n in (claim.arm, claim.against)}
            row = None
            if all(own.values()):
                row = self._row(table, data, coreset, claim.arm, own, claim=claim)
            if row is not None and any(row.differences.values()):
                claims.append((claim, row))
            else:
                unjudged.append(claim)
        networks = dict.fromkeys(
            cell.config.network
            for cell in self._cells
            if cell.arm.name in present and cell.data.category.name in self._names(data)
        )
        n_good = n_defective = n_parts = n_unknown = n_seen = 0
        for one in self._names(data):
            cell = self._draws(one, table.baseline, coreset, seeds[table.baseline][0])[0]
            scores = CellScores.load(cell.path)
            subset = self._subset(one, scores)
            n_good += int((~scores.labels & subset).sum())
            n_defective += int((scores.labels & subset).sum())
            n_unknown += int((~self._truth(one, scores) & subset).sum())
            n_seen += len(self._part(one)) - int(subset.sum())
            baseline = self._arm(one, table.baseline, coreset, seeds[table.baseline], table.metrics)
            n_parts += baseline.n_parts
        return TableOutcome(
            table=table,
            data=data,
            coreset=coreset,
            arms=tuple(present),
            rows=tuple(rows),
            claims=tuple(claims),
            unjudged=tuple(unjudged),
            missing=tuple(self._plan.by_name[n].label for n in wanted if n not in present),
            network=", ".join(networks),
            n_good=n_good,
            n_defective=n_defective,
            n_parts=n_parts,
            n_unknown=n_unknown,
            n_seen=n_seen,
        )

    def _row(
        self,
        table: Table,
        data: str,
        coreset: float,
        name: str,
        seeds: Mapping[str, tuple[int, ...]],
        *,
        claim: Claim | None,
    ) -> Row:
        against = table.baseline if claim is None else claim.against
        metrics = table.metrics if claim is None else claim.metrics
        both = tuple(seed for seed in seeds[name] if seed in seeds[against])
        own = self._arm(data, name, coreset, seeds[name], metrics)
        differences = {}
        if name != against and both:
            arm, base = (self._arm(data, one, coreset, both, metrics) for one in (name, against))
            differences = {metric: difference_of(arm, base, metric) for metric in metrics}
        return Row(
            label=self._plan.by_name[name].label,
            n_seeds=len(seeds[name]),
            estimates={metric: estimate_of(own, metric) for metric in metrics},
            differences=differences,
            claim=None if claim is None else claim.kind,
            margin=0.0 if claim is None else claim.margin,
        )

    def _arm(
        self, data: str, name: str, coreset: float, seeds: tuple[int, ...], metrics: Sequence[str]
    ) -> Resampled:
        key = (data, name, coreset, seeds, tuple(metrics))
        if key in self._resampled:
            return self._resampled[key]
        if data == MEAN:
            found = mean_of(
                [self._arm(one, name, coreset, seeds, metrics) for one in self.categories]
            )
        else:
            cells = [self._draws(data, name, coreset, seed) for seed in seeds]
            scores = CellScores.load(cells[0][0].path)
            subset = self._subset(data, scores)
            parts = self._part_of(data)
            # One draw after the other: the scores of all need not be in memory together.
            found = _mean_of_draws(
                [
                    resample(
                        [CellScores.load(cell.path) for cell in draw],
                        metrics=metrics,
                        subset=subset,
                        parts=np.array([parts.get(name, "") for name in scores.sources.tolist()]),
                        truth=self._truth(data, scores),
                        replicates=self._replicates,
                        # So that draws of the images of different categories are independent.
                        seed=self.categories.index(data),
                    )
                    for draw in zip(*cells, strict=True)
                ]
            )
        self._resampled[key] = found
        return found

    def _subset(self, data: str, scores: CellScores) -> np.ndarray:
        """(n,) bool, the scored images that count."""
        wanted = self._part(data) & self._every_arms(data).keys()
        return np.isin(scores.sources, sorted(wanted))

    def _part(self, data: str) -> frozenset[str]:
        """The test images, by source, that the plan's split asks for."""
        if data not in self._wanted:
            # By all test images, so that the part is the same whatever an arm was trained on.
            tests = self._tests[data].test
            sources = np.array([sample.source for sample in tests])
            is_validation = validation_split(
                sources.tolist(),
                [sample.defect for sample in tests],
                parts=[sample.part for sample in tests],
                seed=self._plan.validation_seed,
                share=self._plan.validation_share,
            )
            is_wanted = is_validation == (self._plan.split == "validation")
            self._wanted[data] = frozenset(sources[is_wanted].tolist())
        return self._wanted[data]

    def _part_of(self, data: str) -> dict[str, str]:
        """What each test image of a category shows."""
        if data not in self._parts:
            tests = self._tests[data].test
            self._parts[data] = {sample.source: sample.part for sample in tests}
        return self._parts[data]

    def _truth(self, data: str, scores: CellScores) -> np.ndarray:
        """(n,) bool, of the scored images those that every arm has ground truth of."""
        shared = self._every_arms(data)
        return np.array([shared.get(source, False) for source in scores.sources.tolist()])

    def _every_arms(self, data: str) -> dict[str, bool]:
        """Whether there is ground truth, by source of the images that every arm was scored on.

        Both follow from the canvas: a small defect can vanish, and an image may be a normal that
        was saved anew.
        """
        if data not in self._shared:
            one_per_arm = {
                cell.arm.name: cell for cell in self._cells if cell.data.category.name == data
            }
            known = []
            for cell in one_per_arm.values():
                scores = CellScores.load(cell.path)
                known.append(
                    dict(zip(scores.sources.tolist(), scores.has_truth.tolist(), strict=True))
                )
            names = [name for name in known[0] if all(name in other for other in known)]
            if not names:
                raise ModelError(
                    "no test image was scored by every arm",
                    path=self._tests[data].root,
                    hint="let every arm train on the same images",
                )
            self._shared[data] = {name: all(one[name] for one in known) for name in names}
        return self._shared[data]

    def _names(self, data: str) -> tuple[str, ...]:
        return self.categories if data == MEAN else (data,)

    def _seeds(self, data: str, name: str, coreset: float) -> tuple[int, ...]:
        """Seeds whose scores are there, on every category that is asked for."""
        names = self._names(data)
        return tuple(
            seed
            for seed in self._plan.seeds
            if all(self._draws(one, name, coreset, seed) for one in names)
        )

    def _draws(self, data: str, name: str, coreset: float, seed: int) -> tuple[Cell, ...]:
        """The cells of one seed, one per memory bank; none unless all of them have scores."""
        found = self._by_seed.get((data, name, seed), {})
        cells = found.get(coreset) or found.get(None) or ()
        wanted = self._plan.bank_draws if cells and cells[0].coreset is not None else 1
        return tuple(cells) if len(cells) == wanted else ()


def _mean_of_draws(parts: Sequence[Resampled]) -> Resampled:
    """One arm's figures averaged over the memory banks of each seed."""
    first = parts[0]
    return replace(
        mean_of(parts),
        images=first.images,
        known=first.known,
        n_images=first.n_images,
        n_parts=first.n_parts,
    )


def mean_of(parts: Sequence[Resampled]) -> Resampled:
    """The unweighted mean of one arm over categories, seed by seed and replicate by replicate.

    Args:
        parts: of the same seeds and numbers of replicates; those of different categories must be
            independent of each other.

    Source: ours.
    """
    metrics = parts[0].values
    return Resampled(
        images=tuple(image for part in parts for image in part.images),
        known=tuple(known for part in parts for known in part.known),
        draw=parts[0].draw,
        values={name: np.mean([part.values[name] for part in parts], axis=0) for name in metrics},
        replicates={
            name: np.mean([part.replicates[name] for part in parts], axis=0) for name in metrics
        },
        n_images={name: sum(part.n_images[name] for part in parts) for name in metrics},
        n_parts=sum(part.n_parts for part in parts),
    )
