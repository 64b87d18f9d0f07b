"""Normal or anomalous, told from the latent: for a few labelled anomalies."""

from __future__ import annotations

import torch
from torch import nn

from detector.cavga.initial_weights import make_linear
from detector.cavga.latent import check_positive

NORMAL, ANOMALOUS = 0, 1


class LatentClassifier(nn.Module):
    """A linear layer on the flattened latent.

    Args:
        n_values: of a latent: Z · h · w, or Z of a flat one.
        generator: of the weights; None for none yet, see `make_conv`.

    Raises:
        ConfigError: fewer than one value.

    Source: the paper (read elsewhere: the latent is flattened and followed by a fully connected
    layer). Differs: it says nothing of whether the latent is drawn; pass its mean where gradients
    or answers are to be the same every time.
    """

    def __init__(self, n_values: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        check_positive(n_values=n_values)
        self.linear = make_linear(n_values, 2, generator, gain=1.0)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, Z, h, w) or (B, Z) latent -> (B, 2) logits of normal (0) and anomalous (1)."""
        logits: torch.Tensor = self.linear(values.flatten(1))
        return logits
