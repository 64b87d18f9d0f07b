"""Every option of `fit`, in one frozen object that the model records whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from detector.train_config import TrainConfig
from manifests.errors import ConfigError

if TYPE_CHECKING:
    from detector.detectors.patchcore import PatchCoreConfig

# What a schedule fixes; anything the user types wins over it. See docs/results.md for the evidence.
SCHEDULES: dict[str, dict] = {
    "gentle": {"updates": 160, "lr": 0.003, "freeze_bn": True, "frozen_start": 20},
    "paper": {"updates": 256, "lr": 0.03, "freeze_bn": False, "frozen_start": 20},
}
DEFAULT_SCHEDULE = "gentle"


@dataclass(frozen=True)
class FitConfig:
    """How a model is made from a negative set.

    Attributes:
        network: extractor architecture (see `manifests.weights.load_network`).
        train: the training schedule; `train.updates == 0` leaves the extractor untuned.
        stages: stages whose features make the bank; stage s has stride 2^(s+1).
        coreset_ratio: share of all patch features kept in the bank.
        coreset_max: at most this many, whatever the ratio gives.
        projection_dim: dimensions of the random projection that the coreset search runs in.
        sigma_px: Gaussian blur of the score map at 256 px.
        reweight: PatchCore's neighbourhood reweighting of the image score.
        false_alarm_rate: share of good parts that may exceed the thresholds.
        precision: of the feature pass.
        batch: images of one feature pass.
        seed: of the coreset's start and projection (training has its own, equal by default).
    """

    network: str = "efficientnet_lite0"
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: tuple[int, ...] = (2, 3)
    coreset_ratio: float = 0.01
    coreset_max: int | None = None
    projection_dim: int = 128
    sigma_px: float = 4.0
    reweight: bool = False
    false_alarm_rate: float = 0.01
    precision: str = "fp32"
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        def need(is_met: bool, option: str, got: object, expected: object) -> None:
            if not is_met:
                raise ConfigError(f"{option} cannot be used", expected=expected, got=got)

        need(0 < self.coreset_ratio <= 1, "--coreset", self.coreset_ratio, "above 0, at most 1")
        most = self.coreset_max
        need(most is None or most >= 1, "--coreset-max", most, "1 or more")
        is_known = bool(self.stages) and set(self.stages) <= set(range(5))
        need(is_known, "--stages", self.stages, "0 to 4")
        need(self.projection_dim >= 1, "--projection-dim", self.projection_dim, "1 or more")
        need(0 <= self.sigma_px <= 64, "--sigma", self.sigma_px, "0 to 64 px")
        rate = self.false_alarm_rate
        need(0 < rate < 1, "--false-alarm-rate", rate, "between 0 and 1")
        need(self.batch >= 1, "--batch-images", self.batch, "1 or more")

    def patchcore(self) -> PatchCoreConfig:
        """The part that the detector itself needs."""
        from detector.detectors.patchcore import PatchCoreConfig

        return PatchCoreConfig(
            stages=self.stages,
            coreset_ratio=self.coreset_ratio,
            coreset_max=self.coreset_max,
            projection_dim=self.projection_dim,
            sigma_px=self.sigma_px,
            reweight=self.reweight,
            seed=self.seed,
            precision=self.precision,
            batch=self.batch,
        )

    def to_json(self) -> dict:
        """Plain JSON types, read back by `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> FitConfig:
        """The config of a model.json. Raises TypeError or ConfigError where it is malformed."""
        fields = dict(data)
        fields["train"] = TrainConfig(**fields["train"])
        fields["stages"] = tuple(fields["stages"])
        return cls(**fields)


def scheduled(base: TrainConfig, schedule: str) -> TrainConfig:
    """`base` with what the named schedule fixes."""
    return replace(base, **SCHEDULES[schedule])
