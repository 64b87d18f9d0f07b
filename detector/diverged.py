"""A training whose loss or weights are no longer finite."""

from __future__ import annotations

from detector.train_config import TrainConfig
from manifests.errors import ModelError


class Diverged(ModelError):
    """A training whose loss or weights are no longer finite."""


def diverged(update: int, config: TrainConfig, what: str) -> Diverged:
    """The error of an update, by its number from 1."""
    return Diverged(
        f"training diverged at update {update} of {config.updates}: {what}",
        hint=f"pass a lower --lr (it was {config.lr:g})",
    )
