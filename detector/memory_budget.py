"""What a memory budget holds: how many features at once, and how many candidates beside them."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.errors import ConfigError, ModelError

DEFAULT_BYTES = 4_000_000_000
"""Fixed, so that a model does not depend on the machine it was fitted on."""

SMALLEST_BYTES = 1_000_000

# Blocks larger than this take time and give nothing: see docs/benchmarks.md.
_BLOCK_ROWS = 262_144
# What a search keeps per feature beside the feature: bounds, counters, and what sorting them takes.
_SEARCH_BYTES = 40


@dataclass(frozen=True)
class FeatureBudget:
    """A budget in features of one width.

    Attributes:
        budget_bytes: for features, candidates and the search for them; the network and the
            process itself come on top, and do not grow with the number of images.
        dim: dimensions D of a feature, 4 bytes each.
        projection_dim: dimensions in which a coreset is sought; where D is larger, the search
            keeps a projected copy.
    """

    budget_bytes: int
    dim: int
    projection_dim: int

    @property
    def row_bytes(self) -> int:
        """Bytes that one feature takes while a coreset is sought."""
        projected = self.projection_dim if self.dim > self.projection_dim else 0
        return 4 * (self.dim + projected) + _SEARCH_BYTES

    def fits(self, rows: int) -> bool:
        """Whether so many features can be searched all at once."""
        return rows * self.row_bytes <= self.budget_bytes

    @property
    def block_rows(self) -> int:
        """Features of one block; blocks take up to half of the budget."""
        return min(_BLOCK_ROWS, self.budget_bytes // 2 // self.row_bytes)

    @property
    def candidate_rows(self) -> int:
        """Candidates kept beside a block, in the other half."""
        return self.budget_bytes // 2 // self.row_bytes


def check_budget(budget_bytes: int) -> None:
    """Raises ConfigError where a budget is too small for anything."""
    if budget_bytes < SMALLEST_BYTES:
        raise ConfigError(
            "--memory-budget cannot be used",
            expected=f"{SMALLEST_BYTES // 1_000_000}MB or more",
            got=f"{budget_bytes} bytes",
        )


def check_bank(budget: FeatureBudget, rows: int) -> None:
    """Whether a bank of so many entries can be chosen from blocks.

    Raises:
        ModelError: its candidates, and as many that are being merged, do not fit.
    """
    _check(
        budget,
        4 * rows * budget.row_bytes,
        what=f"a bank of {rows} patches",
        way_out="--coreset-max with fewer",
    )


def check_batch(budget: FeatureBudget, rows: int) -> None:
    """Whether a block holds one batch of images with so many features.

    Raises:
        ModelError: it does not.
    """
    _check(
        budget,
        2 * rows * budget.row_bytes,
        what=f"one batch of images with {rows} patches",
        way_out="a smaller --batch-images",
    )


def _check(budget: FeatureBudget, needed_bytes: int, *, what: str, way_out: str) -> None:
    if budget.budget_bytes < needed_bytes:
        raise ModelError(
            f"the memory budget is too small for {what}",
            expected=f"--memory-budget {-(-needed_bytes // 1_000_000)}MB or more",
            got=f"{budget.budget_bytes / 1e6:g}MB",
            hint=f"give it more memory, or pass {way_out}",
        )
