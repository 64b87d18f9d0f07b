"""Every option of `build` that shapes pixels, in one frozen object that the manifest records."""

from __future__ import annotations

from dataclasses import dataclass, field

from manifests.devices import PRECISIONS
from manifests.errors import ConfigError
from manifests.images import Geometry

CLUSTER_CHOICES = ("max", "min", "random")
STORES = ("pixels", "anchors")


@dataclass(frozen=True)
class BuildConfig:
    """The recipe of a negative set, less the weights' digest, which is known once they are loaded.

    Attributes:
        policies: names in `generator.policies.POLICIES`, each drawn once per level and repeat.
        network: saliency network (see `manifests.weights.load_network`).
        levels: ids of the network's saliency levels; empty means all five.
        n_clusters: K of the k-means on each map.
        cluster: which cluster the anchors come from, by centroid: max, min or random.
        area_frac: range of a swap patch's area as a fraction of the image.
        aspect: range of a swap patch's height/width ratio.
        scar_width_px, scar_length_px: ranges at 256 px, scaled with the image.
        scar_angle_deg: a scar turns by U(-a, a) degrees.
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
    n_clusters: int = 4
    cluster: str = "max"
    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    scar_width_px: tuple[float, float] = (2.0, 16.0)
    scar_length_px: tuple[float, float] = (10.0, 25.0)
    scar_angle_deg: float = 45.0
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
        need(1 <= self.n_clusters <= 16, "--clusters", self.n_clusters, "1 to 16")
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
        need(0 <= self.noop_tolerance < 128, "--noop-tolerance", self.noop_tolerance, "0 to 127")
        need(self.seed >= 0, "--seed", self.seed, "0 or more")
        need(1 <= self.repeats <= 1000, "--repeats", self.repeats, "1 to 1000")
        need(self.precision in PRECISIONS, "--precision", self.precision, PRECISIONS)
        need(1 <= self.threads <= 64, "--threads", self.threads, "1 to 64")
        need(1 <= self.batch <= 256, "--batch", self.batch, "1 to 256")
        need(1 <= self.shard_images <= 4096, "--shard-images", self.shard_images, "1 to 4096")
        need(self.store in STORES, "--store", self.store, STORES)

    def recipe(self, *, levels: tuple[int, ...], network_digest: str) -> dict:
        """The record for the manifest: plain JSON types, every option that shapes pixels."""
        return {
            "policies": list(self.policies),
            "network": {"name": self.network, "digest": network_digest},
            "levels": list(levels),
            "clusters": {"k": self.n_clusters, "choice": self.cluster},
            "swap": {"area_frac": list(self.area_frac), "aspect": list(self.aspect)},
            "scar": {
                "width_px": list(self.scar_width_px),
                "length_px": list(self.scar_length_px),
                "angle_deg": self.scar_angle_deg,
            },
            "noop_tolerance": self.noop_tolerance,
            "seed": self.seed,
            "repeats": self.repeats,
            "geometry": self.geometry.to_json(),
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
            "shard_images": self.shard_images,
            "store": self.store,
        }
