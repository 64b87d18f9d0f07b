"""Every option of `build` that shapes pixels, in one frozen object that the manifest records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from generator.anchors import CLUSTER_CHOICES
from manifests.devices import PRECISIONS
from manifests.errors import ConfigError
from manifests.images import Geometry

REGIONS = ("kmeans", "most-salient")
SALIENCY_VIEWS = ("level", "mean", "max")
DONORS = ("set", "textures", "procedural")
STORES = ("pixels", "anchors")
N_LEVELS = 5
"""Saliency levels of every network, and so how often a policy without levels is drawn."""
MAX_LEVELS = 64

_PATCH = {"area_frac": "area_frac", "aspect": "aspect"}
_SCAR = {
    "width_px": "scar_width_px",
    "length_px": "scar_length_px",
    "angle_deg": "scar_angle_deg",
}
_EVERY = {"noop_tolerance": "noop_tolerance", "feather_px": "feather_px"}
_CLUSTER = {"cluster": "cluster"}
_COLOUR = {"colour_jitter": "colour_jitter"}
_PERLIN = {
    "perlin_cells": "perlin_cells",
    "alpha": "alpha",
    "noop_tolerance": "noop_tolerance",
}
POLICY_FIELDS: dict[str, dict[str, str]] = {
    "swap": _PATCH | _EVERY | _CLUSTER,
    "scar": _SCAR | _EVERY | _CLUSTER,
    "random-swap": _PATCH | _EVERY,
    "random-scar": _SCAR | _EVERY,
    "cutpaste": _PATCH | _EVERY | _COLOUR,
    "cutpaste-scar": _SCAR | _EVERY | _COLOUR,
    "perlin": _PERLIN,
    "saliency-perlin": _PERLIN | {"saliency": "saliency"},
}
"""Per policy: which field of its own config is set by which field of `BuildConfig`."""

_ALWAYS = frozenset({"policies", "levels", "seed", "repeats", "geometry", "shard_images", "store"})
# Regions are stored beside the maps, whether a policy looks at them or not.
_OF_SALIENCY = frozenset({"network", "precision", "threads", "batch", "regions"})


@dataclass(frozen=True)
class BuildConfig:
    """The recipe of a negative set, less the weights' digest, which is known once they are loaded.

    Attributes:
        policies: names in `generator.policies.POLICIES`. One that looks at one saliency map at a
            time is drawn once per level and repeat; the others as often, at level -1.
        network: saliency network (see `manifests.weights.load_network`).
        levels: ids of the network's saliency levels; empty means all five. Where no policy needs
            saliency, only their number counts.
        regions: where anchors may start: "kmeans", a cluster of each map's grey values, or
            "most-salient", a number of its brightest pixels.
        n_clusters: K of the k-means on each map.
        most_salient: number of most salient pixels at 256x256, scaled with the image's area.
        cluster: which region the anchors come from, by centroid: max, min or random.
        area_frac: range of a patch's area as a fraction of the image.
        aspect: range of a patch's height/width ratio.
        scar_width_px, scar_length_px: ranges at 256 px, scaled with the image.
        scar_angle_deg: a scar turns by U(-a, a) degrees.
        colour_jitter: strength of CutPaste's jitter of brightness, contrast and colour.
        feather_px: width at 256 px of the seam over which a patch blends into its surroundings.
        perlin_cells: range of i in 2^i cells of Perlin noise along a side.
        alpha: range of the weight with which a donor is mixed in.
        saliency: map that guides saliency-perlin: "level", that of each level in turn; "mean" or
            "max" of all levels, and then at level -1.
        donors: what is mixed in: "set", other normals of the same shard; "textures", images of a
            folder; "procedural", patterns drawn for each shard.
        noop_tolerance: two patches whose mean absolute grey difference is not above this are
            redrawn, since swapping them would change nothing a detector could learn from.
        repeats: negatives per image, policy and level.
        precision: of the saliency pass. bf16 changes most map bytes; see docs/results.md.
        threads: CPU threads of one saliency pass. A recipe field, because convolutions are not
            bit-stable across thread counts.
        batch: images of one saliency pass, fixed for the same reason.
        shard_images: normals per shard, the unit of work and of resuming.
    """

    policies: tuple[str, ...] = ("swap", "scar")
    network: str = "efficientnet_lite0"
    levels: tuple[int, ...] = ()
    regions: str = "kmeans"
    n_clusters: int = 4
    most_salient: int = 300
    cluster: str = "max"
    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    scar_width_px: tuple[float, float] = (2.0, 16.0)
    scar_length_px: tuple[float, float] = (10.0, 25.0)
    scar_angle_deg: float = 45.0
    colour_jitter: float = 0.1
    feather_px: float = 0.0
    perlin_cells: tuple[int, int] = (0, 5)
    alpha: tuple[float, float] = (0.1, 1.0)
    saliency: str = "mean"
    donors: str = "set"
    noop_tolerance: float = 1.0
    seed: int = 0
    repeats: int = 1
    geometry: Geometry = field(default_factory=Geometry)
    precision: str = "fp32"
    threads: int = 1
    batch: int = 8
    shard_images: int = 16
    store: str = "pixels"

    def __post_init__(self) -> None:
        from generator.policies import POLICIES

        def need(is_met: bool, option: str, got: object, expected: object) -> None:
            if not is_met:
                raise ConfigError(f"{option} cannot be used", expected=expected, got=got)

        unknown = [name for name in self.policies if name not in POLICIES]
        need(bool(self.policies) and not unknown, "--policies", unknown, ", ".join(POLICIES))
        n_levels = len(self.levels)
        need(n_levels <= MAX_LEVELS, "--levels", f"{n_levels} levels", f"at most {MAX_LEVELS}")
        need(self.regions in REGIONS, "--regions", self.regions, REGIONS)
        need(1 <= self.n_clusters <= 16, "--clusters", self.n_clusters, "1 to 16")
        need(2 <= self.most_salient <= 65536, "--most-salient", self.most_salient, "2 to 65536")
        need(self.cluster in CLUSTER_CHOICES, "--cluster", self.cluster, CLUSTER_CHOICES)
        need(0 < self.area_frac[0] <= self.area_frac[1] <= 0.4, "--area", self.area_frac, "0..0.4")
        need(0 < self.aspect[0] <= self.aspect[1], "--aspect", self.aspect, "above 0")
        need(self.scar_width_px[0] >= 1, "--scar-width", self.scar_width_px, "1 px or more")
        need(self.scar_length_px[0] >= 2, "--scar-length", self.scar_length_px, "2 px or more")
        need(
            2 * self.scar_width_px[0] <= self.scar_length_px[1],
            "--scar-width with --scar-length",
            f"{self.scar_width_px} and {self.scar_length_px}",
            "a length of at least twice the width",
        )
        need(0 <= self.scar_angle_deg <= 90, "--scar-angle", self.scar_angle_deg, "0 to 90")
        need(0 <= self.colour_jitter <= 0.4, "--colour-jitter", self.colour_jitter, "0 to 0.4")
        need(0 <= self.feather_px <= 64, "--feather", self.feather_px, "0 to 64")
        low, high = self.perlin_cells
        are_whole = type(low) is type(high) is int
        need(are_whole and 0 <= low <= high <= 8, "--perlin-cells", self.perlin_cells, "0..8")
        need(0.01 <= self.alpha[0] <= self.alpha[1] <= 1, "--alpha", self.alpha, "0.01..1")
        need(self.saliency in SALIENCY_VIEWS, "--saliency", self.saliency, SALIENCY_VIEWS)
        need(self.donors in DONORS, "--donors", self.donors, DONORS)
        need(0 <= self.noop_tolerance < 128, "--noop-tolerance", self.noop_tolerance, "0 to 127")
        need(self.seed >= 0, "--seed", self.seed, "0 or more")
        need(1 <= self.repeats <= 1000, "--repeats", self.repeats, "1 to 1000")
        need(self.precision in PRECISIONS, "--precision", self.precision, PRECISIONS)
        need(1 <= self.threads <= 64, "--threads", self.threads, "1 to 64")
        need(1 <= self.batch <= 256, "--batch", self.batch, "1 to 256")
        need(1 <= self.shard_images <= 4096, "--shard-images", self.shard_images, "1 to 4096")
        need(self.store in STORES, "--store", self.store, STORES)

    @property
    def needs_saliency(self) -> bool:
        """Whether any policy looks at saliency maps; where none does, no network is loaded."""
        return self._needs({"clusters", "saliency"})

    @property
    def needs_donors(self) -> bool:
        """Whether any policy mixes another image in."""
        return self._needs({"donors"})

    def _needs(self, wanted: set[str]) -> bool:
        from generator.policies import POLICIES

        return any(wanted & POLICIES[name].needs for name in self.policies)

    @property
    def idle_fields(self) -> frozenset[str]:
        """Fields that this build makes no use of, because none of its policies does."""
        used = _ALWAYS.union(*(POLICY_FIELDS[name].values() for name in self.policies))
        if self.needs_saliency:
            used |= _OF_SALIENCY
            used |= {"n_clusters" if self.regions == "kmeans" else "most_salient"}
        if self.needs_donors:
            used |= {"donors"}
        return frozenset(row.name for row in fields(self)) - used

    def draws(self, levels: tuple[int, ...]) -> int:
        """Negatives per image and policy.

        Args:
            levels: the build's saliency levels; empty where no policy needs saliency.
        """
        return self.repeats * (len(levels) or len(self.levels) or N_LEVELS)

    def recipe(
        self,
        *,
        levels: tuple[int, ...],
        network_digest: str | None,
        textures: Mapping[str, object] | None = None,
    ) -> dict:
        """The record for the manifest: plain JSON types, every option that shapes pixels.

        Args:
            levels: the build's saliency levels; empty where no policy needs saliency, and then
                everything about saliency is null.
            network_digest: of the saliency network's weights.
            textures: number and digest of the images of "textures"; None for other donors.

        What belongs to forged anomalies is there only where a policy makes them, so that all other
        recipes, and the digests of their sets, are what they were before there were any.
        """
        is_salient = self.needs_saliency
        is_kmeans = self.regions == "kmeans"
        clusters = {"k": self.n_clusters if is_kmeans else None, "choice": self.cluster}
        regions = {"kind": self.regions, "most_salient": None if is_kmeans else self.most_salient}
        recipe: dict[str, object] = {
            "policies": list(self.policies),
            "network": {"name": self.network, "digest": network_digest} if is_salient else None,
            "levels": list(levels),
            "regions": regions if is_salient else None,
            "clusters": clusters if is_salient else None,
            "swap": {"area_frac": list(self.area_frac), "aspect": list(self.aspect)},
            "scar": {
                "width_px": list(self.scar_width_px),
                "length_px": list(self.scar_length_px),
                "angle_deg": self.scar_angle_deg,
            },
            "colour_jitter": self.colour_jitter,
            "feather_px": self.feather_px,
            "noop_tolerance": self.noop_tolerance,
            "seed": self.seed,
            "repeats": self.repeats,
            "draws": self.draws(levels),
            "geometry": self.geometry.to_json(),
            "precision": self.precision if is_salient else None,
            "threads": self.threads if is_salient else None,
            "batch": self.batch if is_salient else None,
            "shard_images": self.shard_images,
            "store": self.store,
        }
        if self.needs_donors:
            is_guided = "saliency-perlin" in self.policies
            recipe["perlin"] = {
                "cells": list(self.perlin_cells),
                "alpha": list(self.alpha),
                "saliency": self.saliency if is_guided else None,
            }
            recipe["donors"] = {"kind": self.donors, **(textures or {})}
        return recipe
