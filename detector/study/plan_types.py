"""A study's plan: which data, sets, extractors, coresets and seeds are compared, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.study import weighted_metrics
from detector.study.plain_values import check_members, is_number, need
from detector.study.statistics import CLAIMS

_FIRST = ("image_auroc", "pixel_auroc", "aupro")  # what papers report comes first
METRICS = (*_FIRST, *(name for name in weighted_metrics.METRICS if name not in _FIRST))
SPLITS = ("report", "validation")
MAX_BANK_DRAWS = 100
# Banks of one seed are drawn from seeds this far apart, so that none is the first of another seed.
SEED_LIMIT = 1_000_000


@dataclass(frozen=True)
class DataSpec:
    """One data folder: its path and how it is read (as for `cutswap-det eval`)."""

    name: str
    path: Path
    format: str | None = None
    train_list: Path | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way to make a model: a row of the tables.

    Attributes:
        name: what tables and claims call it.
        label: what it is called in print.
        set_name: the negative set it is trained from.
        options: options of `cutswap-det fit` by their long names, with underscores.
    """

    name: str
    label: str
    set_name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """That one arm is better than, or not worse than, another, in some metrics at some coresets."""

    arm: str
    against: str
    kind: str = "better"
    metrics: tuple[str, ...] = METRICS[:2]
    coresets: tuple[float, ...] = ()
    margin: float = 0.0
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """One question: some arms beside a baseline.

    Attributes:
        curve: option of `fit` or `build` by which the arms differ; a plot shows the metrics
            against it. Empty for none.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    baseline: str
    coresets: tuple[float, ...]
    metrics: tuple[str, ...]
    note: str = ""
    claims: tuple[Claim, ...] = ()
    curve: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything a study compares.

    Attributes:
        split: "report": all test images but the validation part; "validation": that part alone,
            for choosing settings.
        sets: options of `cutswap-gen build` by set, by their long names, with underscores.
        bank_draws: memory banks per seed, each from another first patch; a seed's figure is their
            mean. Small banks vary more with that patch than with anything else, and drawing a
            further one costs seconds where a further training costs minutes.
    """

    name: str
    data: tuple[DataSpec, ...]
    sets: Mapping[str, Mapping[str, Any]]
    arms: tuple[Arm, ...]
    tables: tuple[Table, ...]
    coresets: tuple[float, ...] = (0.001, 0.01)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    bank_draws: int = 1
    split: str = "report"
    validation_seed: int = 0
    validation_share: float = 0.2
    note: str = ""
    by_name: Mapping[str, Arm] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {arm.name: arm for arm in self.arms})
        need(bool(self.data), "the plan names no data", "a [data.NAME] table, or --data NAME=PATH")
        need(bool(self.arms), "the plan has no arms", "an [arms.NAME] table, or --arm")
        need(bool(self.seeds), "the plan has no seeds", "seeds = [0, 1, ...]")
        need(bool(self.coresets), "the plan has no coresets", "coresets = [0.001, ...]")
        for seed in self.seeds:
            is_met = is_number(seed, int) and 0 <= seed < SEED_LIMIT
            need(is_met, f"seed {seed!r} cannot be used", f"0 to {SEED_LIMIT - 1}")
        for ratio in self.coresets:
            need(0 < ratio <= 1, f"coreset {ratio} cannot be used", "above 0, at most 1")
        draws = self.bank_draws
        is_met = is_number(draws, int) and 1 <= draws <= MAX_BANK_DRAWS
        need(is_met, f"bank_draws {draws!r} cannot be used", f"1 to {MAX_BANK_DRAWS}")
        need(self.split in SPLITS, f"split {self.split!r} is unknown", " or ".join(SPLITS))
        share, seed = self.validation_share, self.validation_seed
        is_met = is_number(share, float) and 0 < share <= 0.5
        need(is_met, f"validation_share {share!r} cannot be used", "above 0, at most 0.5")
        is_met = is_number(seed, int) and seed >= 0
        need(is_met, f"validation_seed {seed!r} cannot be used", "a whole number, 0 or more")
        for arm in self.arms:
            known = arm.set_name in self.sets
            need(known, f"arm {arm.name}: no set {arm.set_name!r}", ", ".join(self.sets))
        for table in self.tables:
            self._check_table(table)

    def _check_table(self, table: Table) -> None:
        where = f"table {table.name}"
        for name in ("arms", "coresets", "metrics"):
            need(bool(getattr(table, name)), f"{where} has no {name}", f"{name} = [...]")
        check_members(where, "arm", (*table.arms, table.baseline), tuple(self.by_name))
        check_members(where, "metric", table.metrics, METRICS)
        check_members(where, "coreset", table.coresets, self.coresets)
        for claim in table.claims:
            self._check_claim(f"{where}: claim on {claim.arm}", table, claim)
        if table.curve:
            found = [name for name in table.arms if self.option(name, table.curve) is not None]
            need(len(found) > 1, f"{where}: no curve over {table.curve!r}", "an option of two arms")

    def _check_claim(self, where: str, table: Table, claim: Claim) -> None:
        check_members(where, "arm", (claim.arm, claim.against), tuple(self.by_name))
        need(claim.arm != claim.against, f"{where}: it is against itself", "against = another arm")
        need(claim.kind in CLAIMS, f"{where}: kind {claim.kind!r} is unknown", " or ".join(CLAIMS))
        need(bool(claim.metrics), f"{where}: it names no metrics", "metrics = [...]")
        check_members(where, "metric", claim.metrics, METRICS)
        check_members(where, "coreset of its table", claim.coresets, table.coresets)
        margin = claim.margin
        is_met = is_number(margin, float) and margin >= 0
        need(is_met, f"{where}: margin {margin!r} cannot be used", "0 or more")
        is_met = not margin or claim.kind == "not-worse"
        need(is_met, f"{where}: a margin says nothing here", 'kind = "not-worse"')

    def option(self, arm_name: str, option: str) -> Any:
        """An option of an arm, or of its set, as the plan gives it; None where it does not."""
        arm = self.by_name[arm_name]
        return arm.options.get(option, self.sets[arm.set_name].get(option))
