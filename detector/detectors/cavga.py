"""CAVGA: what an autoencoder trained to attend to everything normal does not attend to."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch

from detector.cavga.attention import infer_attention, infer_class_attention
from detector.cavga.classifier import NORMAL
from detector.cavga.losses import squared_errors
from detector.cavga.networks import CLASSIFIER, DECODER, HEAD, CavgaNetworks, CavgaShape
from detector.detectors.base import (
    Boxes,
    Coverage,
    NormalBatches,
    Progress,
    Scores,
    Tensors,
    checked_boxes,
    score_in_batches,
)
from detector.detectors.cavga_config import CavgaConfig as CavgaConfig
from detector.guided.networks import shown_pixels
from detector.score_map import score_map
from manifests.devices import images_on
from manifests.errors import ConfigError, ModelError
from manifests.folding import folded_network
from manifests.images import Geometry
from manifests.weights import Network, autocast


class Cavga:
    """Attention and reconstruction of an adversarial variational autoencoder; see `Detector`.

    The map is 1 - A, A being the attention of the latent's mean, or of the class "normal" where
    anomalies were known in training. The image score is the mean squared difference between the
    image and what the decoder makes of the latent's mean.

    Args:
        learned: the networks beside the encoder, as `CavgaNetworks.learned` gives them.

    Source: CAVGA (arXiv 1911.08616). Differs: see `CavgaTrainee`, `latent_evidence` and
    `NORMALISERS`; the map may be blurred.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    holds_pixels: ClassVar[bool] = False
    is_bounded: ClassVar[bool] = True
    progress_unit: ClassVar[str] = "images"

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: CavgaConfig,
        *,
        untuned: Network | None = None,
        learned: Tensors | None = None,
        device: str = "cpu",
    ) -> None:
        if untuned is not None:
            raise ConfigError("the detector cavga looks with one network")
        if not learned:
            raise ModelError("the autoencoder was not trained", hint="fit it first")
        if network.module.training:
            raise ModelError("the network is in training mode", hint="call .eval()")
        self.network = network
        self.untuned: Network | None = None
        self.geometry = geometry
        self.config = config
        self.device = device
        self.coverage: Coverage | None = None
        own = (HEAD, DECODER, CLASSIFIER)
        self._learned = {
            name: one for name, one in learned.items() if name.partition("/")[0] in own
        }
        self._networks = CavgaNetworks.make(
            folded_network(network),
            shape_of(config, geometry),
            seed=config.seed,
            is_trained=True,
            device=device,
        )
        self._networks.take(self._learned)
        self._forget()

    def _forget(self) -> None:
        self._count = 0
        self._is_fitted = False
        self._batches: NormalBatches | None = None
        self._training_scores: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def networks(self) -> CavgaNetworks:
        """The networks as they score."""
        return self._networks

    def fit(self, batches: NormalBatches, *, progress: Progress | None = None) -> None:
        """Look at the normal images once; all there is to learn was learned in training.

        Raises:
            ModelError: fewer than two images, images that do not fit the geometry, or a diverged
                network.
        """
        self._forget()
        count = 0
        for images, canvas_boxes in batches:
            boxes = checked_boxes(images, canvas_boxes, self.geometry)
            if not count:
                self._score(images[:1], boxes[:1])
            count += len(images)
        if count < 2:
            raise ModelError("too few normal images to fit to", expected="at least 2", got=count)
        self._is_fitted, self._batches = True, batches
        if progress is not None:
            progress(count, count)

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the training images, which the network knows.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.

        Raises:
            ModelError: no `fit` before.

        Source: ours.
        """
        if self._training_scores is not None:
            return self._training_scores
        if self._batches is None:
            raise ModelError("training scores exist only after fitting", hint="fit it first")
        found = [
            self._score(images, checked_boxes(images, boxes, self.geometry))
            for images, boxes in self._batches
        ]
        maxima = [scores.map.reshape(len(scores.map), -1).max(axis=1) for scores in found]
        image = np.concatenate([scores.image for scores in found])
        self._training_scores = image, np.concatenate(maxima)
        self._batches = None
        return self._training_scores

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Score images; see `Detector.score`.

        Raises:
            ModelError: not fitted, or images that do not fit the geometry.
        """
        self._need_fit()
        return score_in_batches(
            self._score, images, canvas_boxes, geometry=self.geometry, batch=self.config.batch
        )

    def _need_fit(self) -> None:
        if not self._is_fitted:
            raise ModelError("the detector has not seen normal images yet", hint="fit it first")

    def summary(self) -> str:
        """What kind of autoencoder it is, in words."""
        self._need_fit()
        kind = "weakly supervised " if self.config.is_weak else ""
        return f"{kind}autoencoder with a {self.config.latent} latent"

    def state(self) -> dict[str, torch.Tensor]:
        """The networks that scoring needs, on the CPU."""
        self._need_fit()
        return dict(self._learned)

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: CavgaConfig,
        state: Tensors,
        *,
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: other tensors than those, or of another network or canvas.
        """
        detector = cls(network, geometry, config, untuned=untuned, learned=state, device=device)
        odd = state.keys() - detector._networks.names()
        if odd:
            raise ModelError("malformed autoencoder", got=", ".join(sorted(odd))[:120])
        detector._is_fitted = True
        return detector

    @torch.no_grad()
    def _score(self, images: np.ndarray, boxes: np.ndarray) -> Scores:
        networks, config = self._networks, self.config
        height, width = images.shape[1:3]
        # What the networks see is what they saw in training; what counts may be less.
        seen = shown_pixels(boxes, height, width)
        pixels, colours = networks.inputs(
            images_on(self.device, images), None if seen is None else seen.to(self.device)
        )
        mask = shown_pixels(boxes, height, width, roi=self.geometry.roi_mask)
        shown = None if mask is None else mask.to(self.device)
        with autocast(self.device, config.precision):
            features = networks.encoder(pixels)[-1]
            latent = networks.head(features)
            rebuilt = networks.decoder(networks.head.to_grid(latent.mean), (height, width))
        features = features.float()
        if networks.classifier is None:
            attention = infer_attention(
                networks.head, features, config.normaliser, size=(height, width)
            )
        else:
            attention = infer_class_attention(
                networks.head,
                networks.classifier,
                features,
                config.normaliser,
                size=(height, width),
            )[:, NORMAL]
        image = squared_errors(rebuilt.float(), colours, shown=shown)
        maps = 1.0 - attention
        if not torch.isfinite(image.sum() + maps.sum()):
            raise ModelError(
                "scores are not finite",
                hint="the network has diverged: fit again with a lower learning rate",
            )
        if shown is not None:
            maps = maps * shown
        if config.sigma_px > 0:
            maps = score_map(
                maps,
                height,
                width,
                sigma_px=config.sigma_px,
                valid=None if mask is None else mask.numpy(),
                canvas_boxes=None if mask is None else boxes,
                roi=self.geometry.roi_mask,
            )
        return Scores(image.float().cpu().numpy(), maps.float().cpu().numpy())


def shape_of(config: CavgaConfig, geometry: Geometry) -> CavgaShape:
    """The networks that a config and a canvas ask for."""
    return CavgaShape(
        latent=config.latent,
        latent_channels=config.latent_channels,
        latent_stage=config.latent_stage,
        width=config.width,
        is_weak=config.is_weak,
        canvas=(geometry.height, geometry.width),
    )
