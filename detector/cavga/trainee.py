"""CAVGA's networks being trained: one update of the discriminator, one of all the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from detector.cavga.attention import CEILINGS, attention, class_evidence, latent_evidence
from detector.cavga.classifier import ANOMALOUS, NORMAL
from detector.cavga.collapse import UpdateFigures
from detector.cavga.discriminator import Discriminator
from detector.cavga.losses import (
    LossTerms,
    LossWeights,
    adversarial_loss,
    classifier_loss,
    discriminator_loss,
    divergence_loss,
    divergence_nats,
    expansion_loss,
    guided_loss,
    reconstruction_loss,
    squared_errors,
)
from detector.cavga.networks import CavgaNetworks
from detector.guided.networks import shown_pixels
from detector.jitter import colour_jitter
from detector.module_trainee import ModuleTrainee
from detector.random_stream import random_stream
from detector.train_config import TrainConfig
from manifests.devices import images_on
from manifests.weights import Network, autocast, state_digest

DISCRIMINATOR_RATE = 0.25
"""Of the discriminator's learning rate to that of the others."""
BETAS = (0.5, 0.999)

_FIGURES = (
    "latent_nats",
    "discriminator_loss",
    "attention",
    "reconstruction_error",
    "mean_image_error",
)
COLUMNS = (
    *("update", "lr", "loss", "reconstruction_loss", "divergence_loss", "adversarial_loss"),
    "attention_loss",
    *_FIGURES,
    "seconds",
)
"""Of the training's log; see `collapse.UpdateFigures`. `attention_loss` is that of expansion or,
weakly supervised, of complementary guided attention."""
WEAK_COLUMNS = (*COLUMNS[:-1], "classifier_loss", "accuracy", "seconds")

Result = tuple[Network, dict[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class CavgaBatch:
    """Images of one update.

    Attributes:
        images: (N, H, W, 3) uint8, normals first.
        boxes: (N, 4) int64, `y, x, h, w` of what is not padding.
        n_normals: how many of them are normal; all, unless weakly supervised.
    """

    images: np.ndarray
    boxes: np.ndarray
    n_normals: int


class CavgaTrainee(ModuleTrainee):
    """CAVGA between updates.

    The batch norms of the encoder keep their statistics: each image's attention is then its own,
    so that one pass gives the gradients of all.

    Args:
        networks: new ones; they are trained in place.
        config: the schedule.
        weights: of the losses.
        normaliser: of the attention.
        mean_image: (H, W, 3) float32 in 0 to 255, what a decoder that listens to nothing learns.

    Source: CAVGA (arXiv 1911.08616): the losses and their weights, alternate updates. Differs: the
    encoder's batch norms, see above; Adam with DCGAN's first moment, one cosine cycle; only normal
    images are reconstructed where some are labelled anomalous; one term of the losses is as the
    functions in `losses` say.
    """

    def __init__(
        self,
        networks: CavgaNetworks,
        config: TrainConfig,
        *,
        weights: LossWeights,
        normaliser: str,
        mean_image: np.ndarray,
    ) -> None:
        modules = networks.modules()
        others = tuple(name for name in modules if name != "discriminator")
        groups = {"model": others, "adversary": ("discriminator",)}
        super().__init__(modules, groups, config, betas=BETAS)
        self._networks = networks
        self._discriminator = cast(Discriminator, networks.discriminator)  # training has one
        self._weights = weights
        self._normaliser = normaliser
        mean = torch.from_numpy(mean_image).permute(2, 0, 1)[None] / 255.0
        self._mean_image = mean.to(networks.device)

    def update(self, update: int, batch: CavgaBatch) -> list[float]:
        """Do one update: the discriminator first, then encoder, latent and decoder.

        Args:
            update: its number, from 0.
            batch: of it.

        Returns:
            The log's columns but the last.

        Raises:
            Diverged: a loss is not finite.
        """
        networks, config = self._networks, self.config
        lr = self.set_rate(update)
        for group in self.optimisers["adversary"].param_groups:
            group["lr"] = lr * DISCRIMINATOR_RATE
        for module in self.modules.values():
            module.train()
        networks.encoder.backbone.eval()
        pixels, colours, shown = self._inputs(update, batch)
        normal = slice(0, batch.n_normals)
        shown_normal = None if shown is None else shown[normal]
        size = (colours.shape[2], colours.shape[3])
        precision = networks.device, config.precision
        with autocast(*precision):
            features = networks.encoder(pixels)[-1]
            latent = networks.head(features)
            drawn = latent.sample(random_stream(f"cavga|{config.seed}|latent|{update}"))
            logits = networks.decoder.logits(networks.head.to_grid(drawn[normal]), size)
        rebuilt = torch.sigmoid(logits.float())
        if shown_normal is not None:
            rebuilt = rebuilt * shown_normal[:, None]
        adversary = self._teach_adversary(colours[normal], rebuilt.detach())
        of_normals = replace(
            latent, mean=latent.mean[normal], log_variance=latent.log_variance[normal]
        )
        n_colours = 3 * self._shown_share(shown_normal, size)
        # A context of its own: one keeps the weights that it cast, and the discriminator's are new.
        with autocast(*precision):
            terms = LossTerms(
                reconstruction=reconstruction_loss(logits, colours[normal], shown=shown_normal),
                divergence=divergence_loss(of_normals, n_colours=n_colours),
                adversarial=adversarial_loss(self._discriminator(rebuilt)),
            )
            terms, extra, level = self._with_attention(terms, features, latent.mean, batch, shown)
        loss = terms.total(self._weights)
        value = loss.item()
        self.need_finite(update, {"loss": value, "discriminator's loss": adversary})
        optimiser = self.optimisers["model"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        is_weak = networks.classifier is not None
        shaping = cast(torch.Tensor, terms.guided if is_weak else terms.expansion)
        nats = divergence_nats(of_normals).mean().item() / of_normals.mean[0].numel()
        errors = [
            squared_errors(images, colours[normal], shown=shown_normal).mean().item()
            for images in (rebuilt.detach(), self._mean_image)
        ]
        parts = (terms.reconstruction, terms.divergence, cast(torch.Tensor, terms.adversarial))
        values = [part.item() for part in (*parts, shaping)]
        figures = [nats, adversary, level, *errors]
        return [update + 1, lr, value, *values, *figures, *extra]

    def _inputs(
        self, update: int, batch: CavgaBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        device = self._networks.device
        images = colour_jitter(
            images_on(device, batch.images),
            jitter=self.config.jitter,
            generator=random_stream(f"cavga|{self.config.seed}|jitter|{update}"),
        )
        shown = shown_pixels(batch.boxes, *batch.images.shape[1:3])
        shown = None if shown is None else shown.to(device)
        return *self._networks.inputs(images, shown), shown

    def _shown_share(self, shown: torch.Tensor | None, size: tuple[int, int]) -> int:
        """Shown pixels per image, rounded."""
        if shown is None:
            return size[0] * size[1]
        return max(1, round(shown.sum().item() / len(shown)))

    def _teach_adversary(self, real: torch.Tensor, fake: torch.Tensor) -> float:
        """One step of the discriminator; its loss before that."""
        discriminator = self._discriminator
        optimiser = self.optimisers["adversary"]
        optimiser.zero_grad(set_to_none=True)
        with autocast(self._networks.device, self.config.precision):
            loss = discriminator_loss(discriminator(real), discriminator(fake))
        loss.backward()
        optimiser.step()
        return loss.item()

    def _with_attention(
        self,
        terms: LossTerms,
        features: torch.Tensor,
        mean: torch.Tensor,
        batch: CavgaBatch,
        shown: torch.Tensor | None,
    ) -> tuple[LossTerms, list[float], float]:
        """The terms with those of attention, what the log says of a classifier, and how much of
        the normal images the attention covers, as a part of what it can."""
        networks, size = self._networks, batch.images.shape[1:3]
        ceiling = CEILINGS[self._normaliser]
        if networks.classifier is None:
            is_shaped = self._weights.expansion > 0.0
            evidence = latent_evidence(features, mean, create_graph=is_shaped)
            maps = attention(evidence, self._normaliser, size=size)
            level = mean_attention(maps.detach(), shown) / ceiling
            return replace(terms, expansion=expansion_loss(maps, shown=shown)), [], level
        logits = networks.classifier(mean)
        labels = torch.full((len(batch.images),), ANOMALOUS, device=logits.device)
        labels[: batch.n_normals] = NORMAL
        evidence = class_evidence(features, logits, create_graph=True)
        maps = attention(evidence, self._normaliser, size=size)
        normals = slice(0, batch.n_normals)
        of_normals = None if shown is None else shown[normals]
        level = mean_attention(maps[normals, NORMAL].detach(), of_normals) / ceiling
        classifier = classifier_loss(logits, labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean().item()
        guided = guided_loss(maps, logits, labels, shown=shown)
        found = replace(terms, classifier=classifier, guided=guided)
        return found, [classifier.item(), accuracy], level

    def finish(self) -> Result:
        """The trained encoder as a network of its own, and everything else that scoring needs.

        Raises:
            Diverged: a weight is not finite.
        """
        self.end()
        networks = self._networks
        networks.encoder.close()
        module = networks.encoder.backbone
        network = replace(networks.network, module=module, digest=state_digest(module))
        return network, networks.learned()


def mean_attention(maps: torch.Tensor, shown: torch.Tensor | None) -> float:
    """Over the pixels that are shown."""
    return (maps if shown is None else maps[shown]).mean().item()


def figures_of(row: dict[str, float]) -> UpdateFigures:
    """What a row of the training's log says to a watch on collapse."""
    values = {name: row[name] for name in _FIGURES}
    return UpdateFigures(
        update=int(row["update"]) - 1, attention_mean=values.pop("attention"), **values
    )
