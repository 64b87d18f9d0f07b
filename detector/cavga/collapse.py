"""Trainings that have stopped to learn what they should, told from figures logged per update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from manifests.errors import ConfigError


@dataclass(frozen=True)
class UpdateFigures:
    """What one update says of itself.

    Attributes:
        update: its number, from 0.
        latent_nats: divergence from the prior per value of the latent, in nats, mean over images.
        discriminator_loss: of `discriminator_loss`, before the update; None without an adversary.
        attention_mean: mean of the attention maps as a part of what an even map can reach
            (`attention.CEILINGS`), in [0, 1]; None where no attention is trained.
        reconstruction_error: mean squared difference of image and reconstruction.
        mean_image_error: the same of the image and the mean of all training images.
    """

    update: int
    latent_nats: float
    discriminator_loss: float | None
    attention_mean: float | None
    reconstruction_error: float
    mean_image_error: float


@dataclass(frozen=True)
class CollapseThresholds:
    """When a training counts as collapsed.

    Attributes:
        min_latent_nats: a latent that carries less per value is silent. 0.001 nats are a mean of
            0.045 standard deviations of the prior, which is what noise in the weights leaves.
        min_discriminator_loss: a discriminator below has won; at 0.05 it is right with a
            probability of 0.975, and teaches nothing that spectral normalisation does not bound.
        max_discriminator_loss: one above is worse than blind, whose loss is 2 ln 2, about 1.39.
        min_attention, max_attention: outside, attention says the same of every cell.
        max_error_ratio: a reconstruction whose error is above this part of the mean image's error
            is no better than the mean image.
        warm_up: updates at the start in which nothing is said of errors and attention, which need
            time to become better than at random.
        patience: updates in a row after which a sign counts.

    Raises:
        ConfigError: limits that are not ordered, or counts that are too small.

    Source: ours.
    """

    min_latent_nats: float = 1e-3
    min_discriminator_loss: float = 0.05
    max_discriminator_loss: float = 3.0
    min_attention: float = 0.02
    max_attention: float = 0.98
    max_error_ratio: float = 0.98
    warm_up: int = 200
    patience: int = 50

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field.name} out of range", expected="at least 0", got=value)
        for low, high in (
            ("min_discriminator_loss", "max_discriminator_loss"),
            ("min_attention", "max_attention"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ConfigError(f"{low} must be less than {high}", got=getattr(self, low))
        if self.patience < 1:
            raise ConfigError("patience out of range", expected="at least 1", got=self.patience)


# Signs by name, and what to say of them. A figure that is not a number is a sign of its own.
MESSAGES: dict[str, str] = {
    "not-finite": "a figure of the training is not finite",
    "posterior-collapse": "the latent carries nothing: the decoder does not listen to it",
    "discriminator-won": "the discriminator is always right: it no longer teaches the decoder",
    "discriminator-lost": "the discriminator is worse than guessing",
    "attention-dark": "attention is 0 everywhere: no cell counts as normal",
    "attention-full": "attention is 1 everywhere: no cell can count as anomalous any more",
    "mean-image": "reconstructions are no better than the mean of the training images",
}


@dataclass(frozen=True)
class Collapse:
    """One sign of collapse that has lasted.

    Attributes:
        name: a key of `MESSAGES`.
        first: the update at which it began.
        update: the update at which it had lasted long enough.
    """

    name: str
    first: int
    update: int

    def __str__(self) -> str:
        return f"{self.name} since update {self.first + 1}: {MESSAGES[self.name]}"


class CollapseWatch:
    """Watches a training update by update and tells each collapse once, when it is certain.

    A sign that goes away and comes back is told again. What is told depends on the figures alone,
    so that after a resumed training's log was read in, it goes on as if nothing had happened.

    Args:
        thresholds: when a sign counts.

    Attributes:
        active: the names of collapses that last at the moment, in the order of `MESSAGES`.

    Source: ours.
    """

    def __init__(self, thresholds: CollapseThresholds | None = None) -> None:
        self._thresholds = thresholds or CollapseThresholds()
        self._since: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    @property
    def active(self) -> tuple[str, ...]:
        limits = {name: _patience(name, self._thresholds) for name in MESSAGES}
        return tuple(name for name in MESSAGES if self._counts.get(name, 0) >= limits[name])

    def see(self, figures: UpdateFigures) -> tuple[Collapse, ...]:
        """Take in one update.

        Args:
            figures: of the update after the last one seen.

        Returns:
            The collapses that became certain with it; mostly none.
        """
        found: list[Collapse] = []
        signs = _signs(figures, self._thresholds)
        for name in MESSAGES:
            if name not in signs:
                self._counts.pop(name, None)
                continue
            count = self._counts[name] = self._counts.get(name, 0) + 1
            if count == 1:
                self._since[name] = figures.update
            if count == _patience(name, self._thresholds):
                found.append(Collapse(name, self._since[name], figures.update))
        return tuple(found)


def find_collapses(
    log: Iterable[UpdateFigures], thresholds: CollapseThresholds | None = None
) -> list[Collapse]:
    """All collapses of a training, in the order in which they became certain.

    Args:
        log: the figures of its updates, in order.
        thresholds: when a sign counts.

    Source: ours.
    """
    watch = CollapseWatch(thresholds)
    return [collapse for figures in log for collapse in watch.see(figures)]


def _patience(name: str, thresholds: CollapseThresholds) -> int:
    return 1 if name == "not-finite" else thresholds.patience


def _signs(figures: UpdateFigures, thresholds: CollapseThresholds) -> set[str]:
    """The names of what is seen in one update."""
    signs: set[str] = set()
    values = [getattr(figures, field.name) for field in fields(figures)]
    if not all(value is None or math.isfinite(value) for value in values):
        signs.add("not-finite")
    if figures.latent_nats < thresholds.min_latent_nats:
        signs.add("posterior-collapse")
    if figures.discriminator_loss is not None:
        if figures.discriminator_loss < thresholds.min_discriminator_loss:
            signs.add("discriminator-won")
        if figures.discriminator_loss > thresholds.max_discriminator_loss:
            signs.add("discriminator-lost")
    if figures.update < thresholds.warm_up:
        return signs
    if figures.attention_mean is not None:
        if figures.attention_mean < thresholds.min_attention:
            signs.add("attention-dark")
        if figures.attention_mean > thresholds.max_attention:
            signs.add("attention-full")
    if figures.reconstruction_error > thresholds.max_error_ratio * figures.mean_image_error:
        signs.add("mean-image")
    return signs
