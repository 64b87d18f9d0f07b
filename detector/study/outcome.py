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
        missing: labels of arms without scores.
        n_good, n_defective: test images that count.
    """

    table: Table
    data: str
    coreset: float
    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[tuple[Claim, Row], ...]
    missing: tuple[str, ...]
    network: str
    n_good: int
    n_defective: int


class Outcomes:
    """Reads a plan's finished cells and compares them.

    Args:
        plan: what is compared.
        cells: of the plan; those without scores are left out.
        replicates: draws of the bootstrap.

    Raises:
        ModelError: damaged scores, or scores of other test images.
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
        names = dict.fromkeys(cell.data.category.name for cell in cells)
        self.categories = tuple(names)

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
        claims = []
        for claim in table.claims:
            at = claim.coresets or table.coresets
            own = {n: self._seeds(data, n, coreset) for n in (claim.arm, claim.against)}
            if coreset in at and all(own.values()):
                claims.append((claim, self._row(table, data, coreset, claim.arm, own, claim=claim)))
        networks = dict.fromkeys(
            cell.config.network
            for cell in self._cells
            if cell.arm.name in present and cell.data.category.name in self._names(data)
        )
        tests = [
            CellScores.load(self._draws(one, table.baseline, coreset, seed)[0].path)
            for one in self._names(data)
            for seed in seeds[table.baseline][:1]
        ]
        labels = [(scores.labels, self._subset(scores)) for scores in tests]
        return TableOutcome(
            table=table,
            data=data,
            coreset=coreset,
            arms=tuple(present),
            rows=tuple(rows),
            claims=tuple(claims),
            missing=tuple(self._plan.by_name[n].label for n in wanted if n not in present),
            network=", ".join(networks),
            n_good=sum(int((~label & subset).sum()) for label, subset in labels),
            n_defective=sum(int((label & subset).sum()) for label, subset in labels),
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
            paired = [self._arm(data, arm, coreset, both, metrics) for arm in (name, against)]
            differences = {metric: difference_of(*paired, metric) for metric in metrics}
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
            subset = self._subset(CellScores.load(cells[0][0].path))
            # One draw after the other: the scores of all need not be in memory together.
            found = _mean_of_draws(
                [
                    resample(
                        [CellScores.load(cell.path) for cell in draw],
                        metrics=metrics,
                        subset=subset,
                        replicates=self._replicates,
                        # So that draws of the images of different categories are independent.
                        seed=self.categories.index(data),
                    )
                    for draw in zip(*cells, strict=True)
                ]
            )
        self._resampled[key] = found
        return found

    def _subset(self, scores: CellScores) -> np.ndarray:
        is_validation = validation_split(
            scores.sources.tolist(),
            scores.defects.tolist(),
            seed=self._plan.validation_seed,
            share=self._plan.validation_share,
        )
        return is_validation if self._plan.split == "validation" else ~is_validation

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
    return replace(mean_of(parts), images=parts[0].images, n_images=parts[0].n_images)


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
        draw=parts[0].draw,
        values={name: np.mean([part.values[name] for part in parts], axis=0) for name in metrics},
        replicates={
            name: np.mean([part.replicates[name] for part in parts], axis=0) for name in metrics
        },
        n_images={name: sum(part.n_images[name] for part in parts) for name in metrics},
    )
