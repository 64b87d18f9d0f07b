"""Guided segmentation: a network that was trained to see what a similar normal image has not."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self, cast

import numpy as np
import torch

from detector.detectors.base import (
    Box,
    Boxes,
    Coverage,
    NormalBatches,
    Progress,
    Scores,
    Tensors,
    checked_boxes,
    score_in_batches,
)
from detector.detectors.guided_config import GuidedConfig as GuidedConfig
from detector.embeddings import CellEmbeddings
from detector.guided.folded import folded
from detector.guided.guidance import Guidance
from detector.guided.networks import GUIDANCE, SEGMENTER, GuidedNetworks, shown_pixels
from detector.guided.pooled_score import pooled_scores
from detector.guided.references import References
from detector.guided.retrieval import choose_references, embeddings
from detector.score_map import score_map
from manifests.devices import images_on
from manifests.errors import ConfigError, ModelError
from manifests.folding import folded_network
from manifests.images import Geometry
from manifests.weights import Network, autocast

_NEEDS_TRAINING = "fit it first: guided-seg has to be trained"


class GuidedSegmentation:
    """Segmentation of an image beside the most similar normal image; see `Detector`.

    The map is the probability of each pixel being anomalous, and the image score the largest mean
    of the map over a window (`pooled_scores`), before the map is blurred.

    Args:
        untuned: the network as it was before training, which finds the similar image; needed where
            there is guidance.
        learned: the networks beside the encoder, as `GuidedNetworks.learned` gives them.

    Source: SGSF (arXiv 2209.12440; abstract only), Self-supervised Guidance Network and
    segmentation module; details as in NIGSF (IEEE TCSVT 34(6), 2024). Differs: the model keeps at
    most `references` normal images and not all, chosen so that no other is far from all of them;
    `Segmenter` and `GuidedBatches` say more.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    is_bounded: ClassVar[bool] = True
    progress_unit: ClassVar[str] = "references"

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: GuidedConfig,
        *,
        untuned: Network | None = None,
        learned: Tensors | None = None,
        device: str = "cpu",
    ) -> None:
        if config.guidance != (untuned is not None):
            raise ConfigError(
                "guidance needs the network as it was before training"
                if config.guidance
                else "a segmentation without guidance looks with one network"
            )
        if not learned:
            raise ModelError("the segmentation was not trained", hint=_NEEDS_TRAINING)
        if network.module.training:
            raise ModelError("the network is in training mode", hint="call .eval()")
        self.network = network
        self.untuned = untuned
        self.geometry = geometry
        self.config = config
        self.device = device
        self.holds_pixels = config.guidance
        self.coverage: Coverage | None = None
        self._learned = {
            name: tensor
            for name, tensor in learned.items()
            if name.partition("/")[0] in (SEGMENTER, GUIDANCE)
        }
        self._networks = GuidedNetworks.make(
            network, is_guided=config.guidance, width=config.width, seed=config.seed, device=device
        )
        self._networks.take(self._learned)
        segmenter, guidance = folded(self._networks.segmenter, self._networks.guidance)
        self._networks = replace(self._networks, segmenter=segmenter, guidance=guidance)
        self._cells = None
        if untuned is not None:
            self._cells = CellEmbeddings(folded_network(untuned), device=device)
        self._forget()

    def _forget(self) -> None:
        self._references: References | None = None
        self._is_fitted = False
        self._batches: NormalBatches | None = None
        self._training_scores: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def references(self) -> References | None:
        """What guides; None where nothing does. Raises ModelError before `fit`."""
        if not self._is_fitted:
            raise ModelError("the detector has no references yet", hint="fit it first")
        return self._references

    @property
    def networks(self) -> GuidedNetworks:
        """The networks as they score, without batch norms."""
        return self._networks

    def fit(self, batches: NormalBatches, *, progress: Progress | None = None) -> None:
        """Choose the normal images that guide; see `Detector.fit`.

        Memory: the references' pixels and 4 bytes × D per image.

        Args:
            progress: called with (references chosen, references) at the end.

        Raises:
            ModelError: fewer than two images, or images that do not fit the geometry.
        """
        self._forget()
        count = 0
        found: list[torch.Tensor] = []
        for images, canvas_boxes in batches:
            boxes = checked_boxes(images, canvas_boxes, self.geometry)
            count += len(images)
            if self._cells is not None:
                found.append(embeddings(self._cells, images, boxes).cpu())
        if count < 2:
            raise ModelError("too few normal images to fit to", expected="at least 2", got=count)
        if found:
            vectors = torch.cat(found)
            rows = choose_references(vectors, self.config.references, self.config.seed)
            self._references = References.read(batches, rows.numpy(), vectors[rows], self.device)
        self._is_fitted, self._batches = True, batches
        if progress is not None:
            total = count if self._references is None else len(self._references)
            progress(total, total)

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the training images, none of them guided by itself.

        The images are read once more. That training has seen them is not undone: it knows them as
        normal, so that thresholds are those of images it knows (docs/results.md has how many
        unknown good images exceed them).

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
        image, maxima, start = [], [], 0
        for images, canvas_boxes in self._batches:
            boxes = checked_boxes(images, canvas_boxes, self.geometry)
            own = np.arange(start, start + len(images))
            scores = self._score(images, boxes, own_rows=own)
            image.append(scores.image)
            maxima.append(scores.map.reshape(len(images), -1).max(axis=1))
            start += len(images)
        self._training_scores = np.concatenate(image), np.concatenate(maxima)
        self._batches = None
        return self._training_scores

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Score images; see `Detector.score`.

        Raises:
            ModelError: not fitted, or images that do not fit the geometry.
        """
        _ = self.references  # Refuses before anything is computed.
        return score_in_batches(
            self._score, images, canvas_boxes, geometry=self.geometry, batch=self.config.batch
        )

    def most_similar(
        self, image: np.ndarray, canvas_box: Box, *, count: int
    ) -> list[tuple[np.ndarray, float]]:
        """The references most like an image, the first being the one that guides.

        Args:
            image: (H, W, 3) uint8 that fits the geometry.
            canvas_box: what of it is not padding, `y, x, h, w`.
            count: how many; all where there are no more.

        Returns:
            (H, W, 3) uint8 and the cosine similarity of each.

        Raises:
            ModelError: not fitted, or a segmentation without guidance.
        """
        references = self.references
        if references is None or self._cells is None:
            raise ModelError(
                "this segmentation was trained without guidance: it compares with no normal"
            )
        boxes = checked_boxes(image[None], [canvas_box], self.geometry)
        return references.ranked(embeddings(self._cells, image[None], boxes)[0], count=count)

    def summary(self) -> str:
        """What guides, in words."""
        references = self.references
        if references is None:
            return "segmentation without guidance"
        return f"segmentation guided by {len(references)} normal images"

    def state(self) -> dict[str, torch.Tensor]:
        """Segmenter and guidance, and the references where there are any, on the CPU."""
        references = self.references
        return self._learned | ({} if references is None else references.state())

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: GuidedConfig,
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
        if config.guidance:
            canvas = (geometry.height, geometry.width)
            dim = detector._cells.dim if detector._cells is not None else 0
            detector._references = References.from_state(state, canvas, dim, device)
        odd = state.keys() - detector._learned.keys() - References.NAMES
        if odd or (not config.guidance and state.keys() & References.NAMES):
            raise ModelError("malformed references or networks", got=", ".join(sorted(odd))[:120])
        detector._is_fitted = True
        return detector

    @torch.inference_mode()
    def _score(
        self, images: np.ndarray, boxes: np.ndarray, *, own_rows: np.ndarray | None = None
    ) -> Scores:
        """Scores of a batch that fits.

        Args:
            own_rows: (B,) int64, the images' numbers among those of `fit`; None for other images.
        """
        height, width = images.shape[1:3]
        networks = self._networks
        chosen = None
        if self._references is not None:
            vectors = embeddings(cast(CellEmbeddings, self._cells), images, boxes)
            chosen = self._references.most_similar(vectors, own_rows=own_rows)
        with autocast(self.device, self.config.precision):
            features = None
            if chosen is not None:
                features = cast(Guidance, networks.guidance).features(networks.references(*chosen))
            pixels = networks.inputs(images_on(self.device, images), boxes)
            logits = networks.segmenter(pixels, features)
        probabilities = torch.sigmoid(logits.float())
        if not torch.isfinite(probabilities.sum()):
            raise ModelError("scores are not finite", hint="fit again with a lower learning rate")
        shown = shown_pixels(boxes, height, width, roi=self.geometry.roi_mask)
        if shown is not None:
            probabilities = probabilities * shown.to(probabilities.device)
        image = pooled_scores(
            probabilities,
            window_px=self.config.window_px,
            valid=None if shown is None else shown.to(probabilities.device),
        )
        maps = probabilities
        if self.config.sigma_px > 0:
            maps = score_map(
                probabilities,
                height,
                width,
                sigma_px=self.config.sigma_px,
                valid=None if shown is None else shown.numpy(),
                canvas_boxes=None if shown is None else boxes,
                roi=self.geometry.roi_mask,
            )
        return Scores(image.float().cpu().numpy(), maps.cpu().numpy())
