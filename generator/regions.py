"""Where anchors may start: a saliency map cut into regions, as the recipe says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generator.anchors import CLUSTER_CHOICES, anchor_rng
from generator.clusters import Clusters, cluster_map
from generator.config import BuildConfig
from generator.most_salient import MostSalient, most_salient_map
from manifests.edits import Box
from manifests.errors import SetError

REFERENCE_AREA_PX = 256 * 256


@dataclass(frozen=True)
class Regions:
    """How the maps of one set are cut.

    Attributes:
        kind: "kmeans" or "most-salient".
        n_clusters: K of the k-means; not used by "most-salient".
        most_salient: number of pixels at 256x256, scaled with the valid box's area; not used by
            "kmeans".
        choice: which region anchors come from: "max", "min" or "random".
        seed: of the set; decides between equally salient pixels.
    """

    kind: str
    n_clusters: int
    most_salient: int
    choice: str
    seed: int

    @classmethod
    def of_config(cls, config: BuildConfig) -> Regions:
        """The regions that a build is to make."""
        return cls(
            kind=config.regions,
            n_clusters=config.n_clusters,
            most_salient=config.most_salient,
            choice=config.cluster,
            seed=config.seed,
        )

    @classmethod
    def from_recipe(cls, recipe: dict, *, path: Path | None = None) -> Regions | None:
        """The regions of a set that lies on disk; None for one without, or merged of several kinds.

        Raises:
            SetError: the recipe's clusters or regions are malformed.
        """
        clusters: Any = recipe.get("clusters")
        regions: Any = recipe.get("regions")
        is_merged = "parts" in recipe
        if clusters is None or (is_merged and (regions is None or recipe.get("seed") is None)):
            return None
        try:
            kind = "kmeans" if regions is None else regions["kind"]
            most_salient = 0 if kind == "kmeans" else regions["most_salient"]
            seed = recipe.get("seed", 0)
            n_clusters = clusters["k"] if kind == "kmeans" else 2
            choice = clusters["choice"]
            whole = (most_salient, n_clusters, seed)
            is_whole = all(type(number) is int and number >= 0 for number in whole)
            if (
                not is_whole
                or kind not in ("kmeans", "most-salient")
                or choice not in CLUSTER_CHOICES
            ):
                raise TypeError
            return cls(kind, n_clusters, most_salient, choice, seed)
        except (KeyError, TypeError) as error:
            raise SetError(
                "recipe's clusters or regions are malformed",
                path=path,
                expected="clusters with k and choice, regions with kind and most_salient, a seed",
                got=ascii([clusters, regions, recipe.get("seed")])[:80],
            ) from error

    @property
    def in_words(self) -> str:
        """For captions: which pixels anchors may start from."""
        if self.kind == "kmeans":
            return f"k-means clusters, K={self.n_clusters}, {self.choice}"
        return f"the {self.most_salient} most salient pixels at 256×256, {self.choice}"

    def cut(
        self,
        saliency: np.ndarray,
        height: int,
        width: int,
        valid_box: Box,
        *,
        digest: str,
        level: int,
        roi: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Clusters | MostSalient]:
        """Regions of one map, enlarged to the canvas.

        Args:
            saliency: (h, w) uint8, at its own grid.
            height, width: of the canvas, in px.
            valid_box: the part of the canvas that shows the image.
            digest: content digest of the normal, hex.
            level: of the map. With the digest it seeds the choice between equally salient pixels.
            roi: (height, width) bool, the pixels of the box that count; None for all.

        Returns:
            labels (height, width) uint8, 0 for the least salient region, and the regions' number
            and centroids.

        Raises:
            ConfigError: K is out of range.
            ValueError: the map is not (h, w) uint8, or the box is empty or leaves the canvas.
        """
        # Not at the top: this module loads torch, which a set without saliency has no use for.
        from generator.saliency import upsample

        full = upsample(saliency, height, width)
        if self.kind == "kmeans":
            return cluster_map(full, valid_box, self.n_clusters, roi=roi)
        area_px = valid_box[2] * valid_box[3] if roi is None else np.count_nonzero(roi)
        count = max(1, round(self.most_salient * area_px / REFERENCE_AREA_PX))
        rng = anchor_rng(self.seed, digest, "most-salient", level, 0)
        return most_salient_map(full, valid_box, count, rng=rng, roi=roi)
