"""Where the encoder looks: Grad-CAM of the latent, as a map that a loss can shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from manifests.errors import ConfigError, ModelError

SIGMOID_SCALE = 0.25
RATIO_SOFTNESS = 0.25
RATIO_SHARE = 0.1
RATIO_FLOOR = 1e-3


def latent_evidence(
    features: torch.Tensor, mean: torch.Tensor, *, create_graph: bool
) -> torch.Tensor:
    """How much each cell of a feature map raises the mean of the latent.

    e = sum over k of w_k F_k, where w_k is the sum over cells of the gradient of the latent's mean,
    averaged over its values, with respect to channel F_k. In units of the latent: where the head
    is homogeneous and its gradients alike in all cells, the mean of e over cells is the mean of the
    latent, whatever the grid.

    The gradients of all images come from one pass, which is right only where no image's latent
    depends on another image: batch norms between `features` and `mean` must be in eval mode.

    Args:
        features: (B, C, h, w), the encoder's last feature map, or an earlier one.
        mean: the latent's mean computed from it, (B, Z, h', w') or (B, Z).
        create_graph: whether a loss on the result is to reach the weights (also through the
            gradients, in second order); needed for training. Else the result carries no graph, but
            the one of `mean` stays.

    Returns:
        (B, h, w), of the features' dtype but at least float32, of either sign.

    Raises:
        ModelError: the features do not require gradients, or `mean` does not depend on them.

    Source: Grad-CAM (Selvaraju et al. 2017, equation 1, and 2 before the ReLU) on the latent, as in
    the paper; which scalar of the latent it derives is not known to us, public reimplementations
    take the sum of the means. Differs: sums of gradients over cells in place of means (a factor
    h · w), and no ReLU, see `NORMALISERS`.
    """
    return _evidence(features, mean.flatten(1).mean(dim=1), create_graph=create_graph)


def class_evidence(
    features: torch.Tensor, logits: torch.Tensor, *, create_graph: bool
) -> torch.Tensor:
    """How much each cell of a feature map raises each class's logit.

    Args:
        features, create_graph: as for `latent_evidence`.
        logits: (B, 2), of the classifier on the latent.

    Returns:
        (B, 2, h, w), as `latent_evidence`.

    Raises:
        ModelError: as `latent_evidence`.

    Source: as `latent_evidence`; class-specific in the paper's weakly supervised variant.
    """
    maps = [_evidence(features, score, create_graph=create_graph) for score in logits.unbind(1)]
    return torch.stack(maps, dim=1)


def attention(evidence: torch.Tensor, normaliser: str, *, size: tuple[int, int]) -> torch.Tensor:
    """Evidence as attention on the image.

    Args:
        evidence: (B, h, w) or (B, K, h, w); each map is normalised for itself.
        normaliser: a name in `NORMALISERS`.
        size: (H, W) px.

    Returns:
        (B, H, W) or (B, K, H, W) in [0, 1], upsampled bilinearly after it was normalised.

    Raises:
        ConfigError: an unknown normaliser.

    Source: the paper for [0, 1]; upsampling is ours.
    """
    if normaliser not in NORMALISERS:
        raise ConfigError("unknown normaliser", expected=", ".join(NORMALISERS), got=normaliser)
    values = NORMALISERS[normaliser](evidence)
    maps = values if values.ndim == 4 else values[:, None]
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    # Bilinear weights add up to one but for rounding.
    return maps.clamp(0.0, 1.0).view(*evidence.shape[:-2], *size)


def infer_attention(
    head: nn.Module, features: torch.Tensor, normaliser: str, *, size: tuple[int, int]
) -> torch.Tensor:
    """Attention of a trained encoder, without a graph.

    Works under `torch.no_grad` and `torch.inference_mode`; no parameter's `.grad` is touched.

    Args:
        head: (B, C, h, w) -> `Latent`.
        features: (B, C, h, w), the encoder's last feature map; not modified.
        normaliser, size: as for `attention`.

    Returns:
        (B, H, W) in [0, 1].

    Raises:
        ConfigError: an unknown normaliser.

    Source: see `latent_evidence`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.detach().clone().requires_grad_(True)
        evidence = latent_evidence(leaf, head(leaf).mean, create_graph=False)
        return attention(evidence, normaliser, size=size)


def infer_class_attention(
    head: nn.Module,
    classifier: nn.Module,
    features: torch.Tensor,
    normaliser: str,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """Attention to normal and to anomalous of a trained encoder and classifier, without a graph.

    Args:
        head, features, normaliser, size: as for `infer_attention`.
        classifier: the latent's mean -> (B, 2) logits.

    Returns:
        (B, 2, H, W) in [0, 1].

    Raises:
        ConfigError: an unknown normaliser.

    Source: see `class_evidence`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.detach().clone().requires_grad_(True)
        evidence = class_evidence(leaf, classifier(head(leaf).mean), create_graph=False)
        return attention(evidence, normaliser, size=size)


def _evidence(features: torch.Tensor, scores: torch.Tensor, *, create_graph: bool) -> torch.Tensor:
    """(B, h, w) of (B, C, h, w) features and one score per image."""
    if not features.requires_grad or not scores.requires_grad:
        raise ModelError(
            "attention needs gradients with respect to the features",
            hint="call features.requires_grad_() where the encoder is frozen",
        )
    (gradients,) = torch.autograd.grad(
        scores.sum(), features, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    if gradients is None:
        raise ModelError("the latent does not depend on these features")
    if not create_graph:
        features = features.detach()
    weights = at_least_fp32(gradients).sum(dim=(2, 3), keepdim=True)
    return (weights * at_least_fp32(features)).sum(dim=1)


def at_least_fp32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, everything else as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _sigmoid(evidence: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(evidence / SIGMOID_SCALE)


def _ratio(evidence: torch.Tensor) -> torch.Tensor:
    squares = evidence.square()
    # The floor keeps a map without evidence from being a quotient of rounding errors.
    level = (squares.mean(dim=(-2, -1), keepdim=True) + RATIO_FLOOR**2).sqrt()
    raised = 0.5 * (evidence + (squares + (RATIO_SOFTNESS * level).square()).sqrt())
    return raised / (raised + RATIO_SHARE * level)


# How evidence becomes attention in [0, 1]. Wanted: smooth, bounded slopes, able to come near 1 in
# all cells at once, a gradient wherever it is not there yet, and no way to 1 for nothing.
#
# "sigmoid": sigma(e / 0.25). The unit is the latent's, whose prior has standard deviation 1, so
# that attention near 1 must be paid for with divergence from the prior: scaling the features up
# wins nothing. Half of it is at no evidence, more where a cell raises the latent, less where it
# lowers it, so that the paper's threshold of 0.5 on 1 - A marks the cells that count against
# normal. Source: a sigmoid is what the paper uses (read elsewhere); the unit is ours. Differs: no
# ReLU before. With it A would never be below 0.5, so that nothing could exceed the threshold, and
# cells below zero would have no gradient, which is where the expansion loss is to act.
#
# "ratio": m / (m + 0.1 r), where r is the root mean square of the image's evidence and m a smooth
# positive part of it. Independent of the evidence's scale: only its evenness counts, and an even
# map reaches 0.91 at most. Only a map of one negative value has no gradient. Source: ours.
#
# Hard min-max scaling is neither: it makes some cell 0 and some cell 1 in every image, so that the
# expansion loss cannot be satisfied and every image has an anomaly; its gradient goes through two
# single cells, jumps when others become the extremes, and has no bound for nearly even maps.
NORMALISERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": _sigmoid,
    "ratio": _ratio,
}

# What an even map comes to where its evidence is as strong as can be.
_EVEN_RAISED = 0.5 * (1.0 + math.sqrt(1.0 + RATIO_SOFTNESS**2))
CEILINGS: dict[str, float] = {
    "sigmoid": 1.0,
    "ratio": _EVEN_RAISED / (_EVEN_RAISED + RATIO_SHARE),
}
