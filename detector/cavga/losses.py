"""What the parts of CAVGA are trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from detector.cavga.attention import at_least_fp32
from detector.cavga.classifier import NORMAL
from detector.cavga.latent import Latent
from manifests.errors import ConfigError


@dataclass(frozen=True)
class LossWeights:
    """How much each term of the encoder's and decoder's loss counts.

    Attributes:
        autoencoder: of reconstruction and divergence from the prior together.
        adversarial: of the discriminator's opposition.
        expansion: of attention expansion.
        classifier: of the classifier's cross-entropy.
        guided: of complementary guided attention.

    Raises:
        ConfigError: a weight that is negative or not finite.

    Source: the paper: 1, 1, 0.01 without labels, and 1, 1, 0.001, 0.01 with.
    """

    autoencoder: float = 1.0
    adversarial: float = 1.0
    expansion: float = 0.01
    classifier: float = 0.0
    guided: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(
                    f"weight {field.name} out of range", expected="at least 0", got=value
                )


UNSUPERVISED = LossWeights()
WEAKLY_SUPERVISED = LossWeights(expansion=0.0, classifier=0.001, guided=0.01)


@dataclass(frozen=True, eq=False)
class LossTerms:
    """The terms of one update, each a scalar; None where the variant has none.

    Attributes:
        reconstruction: of `reconstruction_loss`.
        divergence: of `divergence_loss`.
        adversarial: of `adversarial_loss`.
        expansion: of `expansion_loss`.
        classifier: of `classifier_loss`.
        guided: of `guided_loss`.
    """

    reconstruction: torch.Tensor
    divergence: torch.Tensor
    adversarial: torch.Tensor | None = None
    expansion: torch.Tensor | None = None
    classifier: torch.Tensor | None = None
    guided: torch.Tensor | None = None

    def total(self, weights: LossWeights) -> torch.Tensor:
        """The weighted sum, a scalar with its graph.

        Raises:
            ConfigError: a term that is weighted but was not computed.
        """
        total = weights.autoencoder * (self.reconstruction + self.divergence)
        for name in ("adversarial", "expansion", "classifier", "guided"):
            weight, term = getattr(weights, name), getattr(self, name)
            if weight == 0.0:
                continue
            if term is None:
                raise ConfigError(f"{name} is weighted and was not computed", got=weight)
            total = total + weight * term
        return total


def reconstruction_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy between the colours of image and reconstruction, mean over values.

    With the sigmoid it has a slope of reconstruction minus image, which no saturated value loses.
    It is least, but not 0, where both are equal.

    Args:
        logits: (B, 3, H, W), of `Decoder.logits`.
        targets: (B, 3, H, W) RGB in [0, 1].
        shown: (B, H, W), 1 where the canvas shows the source and 0 in padding; None for everywhere.

    Returns:
        A scalar, in nats per colour value.

    Source: the paper's equation 1 (as we know it from elsewhere: cross-entropy, averaged over
    images; whether over pixels too is not said).
    """
    losses = F.binary_cross_entropy_with_logits(
        at_least_fp32(logits), at_least_fp32(targets), reduction="none"
    )
    return _mean(losses.mean(dim=1), shown)


def divergence_nats(latent: Latent) -> torch.Tensor:
    """Kullback-Leibler divergence of each image's latent from N(0, I).

    Args:
        latent: of B images.

    Returns:
        (B,) nats, sums over the latent's values, at least float32.

    Source: Kingma and Welling 2014, appendix B.
    """
    mean, log_variance = at_least_fp32(latent.mean), at_least_fp32(latent.log_variance)
    values = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return values.flatten(1).sum(dim=1)


def divergence_loss(latent: Latent, *, n_colours: int) -> torch.Tensor:
    """Divergence from the prior per colour value, so that with the reconstruction loss it makes
    the evidence lower bound, divided by a constant.

    Args:
        latent: of B images.
        n_colours: values of an image, 3 · H · W (of shown pixels).

    Returns:
        A scalar, in nats per colour value.

    Source: the paper's equation 1; the division by the number of values is ours.
    """
    return divergence_nats(latent).mean() / n_colours


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-mean[log D(x) + log(1 - D(x_hat))], which the discriminator lowers.

    Args:
        real: (B,) logits of photographs.
        fake: (B',) logits of reconstructions, which are to be detached from the decoder.

    Returns:
        A scalar; 2 ln 2 where the discriminator cannot tell.

    Source: the paper's equation 2, from logits, so that no logarithm of 0 is taken.
    """
    return F.softplus(-at_least_fp32(real)).mean() + F.softplus(at_least_fp32(fake)).mean()


def adversarial_loss(fake: torch.Tensor) -> torch.Tensor:
    """-mean log D(x_hat), which encoder and decoder lower.

    Args:
        fake: (B,) logits of reconstructions, with their graph. The discriminator's parameters are
            to be frozen or their gradients dropped.

    Returns:
        A scalar; ln 2 where the discriminator cannot tell.

    Source: Goodfellow et al. 2014, section 3. Differs: the paper's encoder and decoder raise
    `discriminator_loss` itself, which has no slope left where the discriminator is sure; this has
    the same fixed point and its slope where it is needed.
    """
    return F.softplus(-at_least_fp32(fake)).mean()


def expansion_loss(attention: torch.Tensor, *, shown: torch.Tensor | None = None) -> torch.Tensor:
    """mean(1 - A): on normal images attention is to cover everything.

    Args:
        attention: (B, H, W) in [0, 1], of normal images.
        shown: as for `reconstruction_loss`.

    Returns:
        A scalar in [0, 1].

    Source: the paper's equation 3.
    """
    return _mean(1.0 - attention, shown)


def guided_loss(
    attention: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    shown: torch.Tensor | None = None,
) -> torch.Tensor:
    """mean(1 - A_normal + A_anomalous) over the normal images that are recognised as such.

    Args:
        attention: (B, 2, H, W) in [0, 1], to normal and to anomalous.
        logits: (B, 2), of the classifier.
        labels: (B,) integers, 0 normal and 1 anomalous.
        shown: as for `reconstruction_loss`.

    Returns:
        A scalar in [0, 2]: the sum over the images that count, divided by B; 0, still with a graph,
        where none counts.

    Source: the paper's equation 5; that only normal images classified as normal count, and that
    the others still count in the divisor, read elsewhere.
    """
    normal, anomalous = attention.unbind(dim=1)
    is_counted = (labels == NORMAL) & (logits.detach().argmax(dim=1) == NORMAL)
    return (_means(1.0 - normal + anomalous, shown) * is_counted).mean()


def classifier_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the classifier, mean over images.

    Args:
        logits: (B, 2).
        labels: (B,) int64, 0 normal and 1 anomalous.

    Returns:
        A scalar.

    Source: the paper ("binary cross-entropy", which for two classes is the same).
    """
    return F.cross_entropy(at_least_fp32(logits), labels)


def squared_errors(
    images: torch.Tensor, targets: torch.Tensor, *, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared difference of colours, per image, as a score and for the watch on collapse.

    Args:
        images: (B, 3, H, W), or (1, 3, H, W) to compare one image with all.
        targets: (B, 3, H, W), both RGB in [0, 1].
        shown: as for `reconstruction_loss`.

    Returns:
        (B,).

    Source: the paper scores images by the difference of pixels; squared: ours.
    """
    return _means((at_least_fp32(images) - at_least_fp32(targets)).square().mean(dim=1), shown)


def _means(values: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
    """(B, H, W) -> (B,) means over what is shown."""
    if shown is None:
        return values.mean(dim=(1, 2))
    return (values * shown).sum(dim=(1, 2)) / shown.sum(dim=(1, 2)).clamp(min=1.0)


def _mean(values: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
    """Mean of the images' means: each image counts the same, whatever its padding."""
    return _means(values, shown).mean()
