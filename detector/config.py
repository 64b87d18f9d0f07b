"""Every option of `fit`, in one frozen object that the model records whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from detector.memory_budget import DEFAULT_BYTES, check_budget
from detector.schedules import IDLE
from detector.tiles import check_tile
from detector.train_config import TrainConfig
from manifests.errors import ConfigError

# Detector -> the fields of FitConfig that only it uses, and their options.
DETECTOR_OPTIONS: dict[str, dict[str, str]] = {
    "patchcore": {
        "stages": "--stages",
        "coreset_ratio": "--coreset",
        "coreset_max": "--coreset-max",
        "projection_dim": "--projection-dim",
        "reweight": "--reweight",
        "with_untuned": "--with-untuned",
        "memory_budget": "--memory-budget",
        "tile": "--tile",
    },
    "gaussian": {"memory_budget": "--memory-budget"},
    "guided-seg": {
        "guidance": "--guidance",
        "references": "--references",
        "window_px": "--window",
        "width": "--width",
    },
    "cavga": {
        "latent": "--latent",
        "latent_channels": "--latent-channels",
        "latent_stage": "--latent-stage",
        "expansion": "--expansion",
        "normaliser": "--normaliser",
        "weak": "--weak",
        "anomalous": "--anomalous",
        "width": "--width",
    },
}
DEFAULT_DETECTOR = "patchcore"
# Detectors that are trained themselves -> the fields that shape what is trained, beside the
# schedule. The training of all others ends with an extractor, which is the same for any of them.
TRAINED_WITH: dict[str, tuple[str, ...]] = {
    "guided-seg": ("guidance", "width"),
    "cavga": tuple(DETECTOR_OPTIONS["cavga"]),
}

# Fields that models made before them lack, with what held then.
_LATER: dict[str, object] = {
    "memory_budget": DEFAULT_BYTES,
    "tile": None,
    "guidance": True,
    "references": 128,
    "window_px": 5,
    "width": None,
    "latent": "spatial",
    "latent_channels": 32,
    "latent_stage": 4,
    "expansion": 0.01,
    "normaliser": "ratio",
    "weak": False,
    "anomalous": None,
}
LATENTS = ("spatial", "flat")
NORMALISERS = ("sigmoid", "ratio")
_NEVER = object()


@dataclass(frozen=True)
class FitConfig:
    """How a model is made from a negative set.

    Attributes:
        network: extractor architecture (see `manifests.weights.load_network`).
        train: the training schedule; `train.updates == 0` leaves the extractor untuned.
        detector: "patchcore", "gaussian", "guided-seg" or "cavga".
        stages: stages whose features make the bank; stage s has stride 2^(s+1). PatchCore only,
            as all of the next five.
        coreset_ratio: share of all patch features kept in the bank.
        coreset_max: at most this many, whatever the ratio gives.
        projection_dim: dimensions of the coreset search; wider features are projected at random.
        reweight: PatchCore's neighbourhood reweighting of the image score.
        with_untuned: compare the features of the tuned and of the untuned extractor side by side,
            which takes twice the time and memory.
        guidance: whether a similar normal image guides the segmentation. `guided-seg` only, as the
            next three.
        references: normal images that a model keeps to be guided by, at most.
        window_px: side of the window whose largest mean in the map is the image score, at 256 px.
        width: channels of the decoder's finest features; None for the detector's own number. Of
            `guided-seg` and `cavga`.
        latent: "spatial", a latent with a grid, or "flat". `cavga` only, as the next six.
        latent_channels: of the latent.
        latent_stage: the stage whose feature map the latent and the attention are of.
        expansion: weight of the attention expansion loss; 0 for none.
        normaliser: how evidence becomes attention: "sigmoid" or "ratio".
        weak: the set's negatives stand for known anomalies in training.
        anomalous: digest of the files of known anomalies in training; None for none.
        sigma_px: Gaussian blur of the score map at 256 px.
        false_alarm_rate: share of good parts that may exceed the thresholds.
        precision: of the feature pass.
        batch: images of one feature pass.
        seed: of the coreset's start and projection, or of the Gaussian's folds (training has its
            own, equal by default).
        memory_budget: bytes that features of training images may take; more images are looked at
            in blocks.
        tile: side in px of the tiles that the network sees of a large canvas, in training too; None
            for all of it. PatchCore only.

    Raises:
        ConfigError: a value outside its range, or one of another detector, by the name of its
            option.
    """

    network: str = "efficientnet_lite0"
    train: TrainConfig = field(default_factory=TrainConfig)
    detector: str = DEFAULT_DETECTOR
    stages: tuple[int, ...] = (2, 3)
    coreset_ratio: float = 0.01
    coreset_max: int | None = None
    projection_dim: int = 384
    reweight: bool = False
    with_untuned: bool = False
    guidance: bool = True
    references: int = 128
    window_px: int = 5
    width: int | None = None
    latent: str = "spatial"
    latent_channels: int = 32
    latent_stage: int = 4
    expansion: float = 0.01
    normaliser: str = "ratio"
    weak: bool = False
    anomalous: str | None = None
    sigma_px: float = 4.0
    false_alarm_rate: float = 0.01
    precision: str = "fp32"
    batch: int = 8
    seed: int = 0
    memory_budget: int = DEFAULT_BYTES
    tile: int | None = None

    def __post_init__(self) -> None:
        def need(is_met: bool, option: str, got: object, expected: object) -> None:
            if not is_met:
                raise ConfigError(f"{option} cannot be used", expected=expected, got=got)

        known = " or ".join(DETECTOR_OPTIONS)
        need(self.detector in DETECTOR_OPTIONS, "--detector", self.detector, known)
        for entry in fields(self):
            if getattr(self, entry.name) != entry.default:
                refuse_option_of_another(self.detector, entry.name)
        need(0 < self.coreset_ratio <= 1, "--coreset", self.coreset_ratio, "above 0, at most 1")
        most = self.coreset_max
        need(most is None or most >= 1, "--coreset-max", most, "1 or more")
        is_known = bool(self.stages) and set(self.stages) <= set(range(5))
        need(is_known, "--stages", self.stages, "0 to 4")
        need(self.projection_dim >= 1, "--projection-dim", self.projection_dim, "1 or more")
        need(0 <= self.sigma_px <= 64, "--sigma", self.sigma_px, "0 to 64 px")
        rate = self.false_alarm_rate
        need(0 < rate < 1, "--false-alarm-rate", rate, "between 0 and 1")
        # A stranger's model names it too, and it is what scoring takes memory for.
        need(1 <= self.batch <= 1024, "--batch-images", self.batch, "1 to 1024")
        check_budget(self.memory_budget)
        check_tile(self.tile)
        wanted = self.tile if self.train.updates else None
        need(self.train.tile == wanted, "--tile", self.train.tile, f"{wanted} in training too")
        need(2 <= self.references <= 65536, "--references", self.references, "2 to 65536")
        if not self.guidance and self.references != FitConfig.references:
            raise ConfigError(
                "--references: nothing guides with --no-guidance", hint="leave --references out"
            )
        need(1 <= self.window_px <= 256, "--window", self.window_px, "1 to 256")
        width = self.width
        # A stranger's model names it too, and memory is taken for what it asks.
        need(width is None or 4 <= width <= 128, "--width", width, "4 to 128")
        need(self.latent in LATENTS, "--latent", self.latent, " or ".join(LATENTS))
        channels = self.latent_channels
        need(1 <= channels <= 1024, "--latent-channels", channels, "1 to 1024")
        need(0 <= self.latent_stage <= 4, "--latent-stage", self.latent_stage, "0 to 4")
        need(0 <= self.expansion <= 1000, "--expansion", self.expansion, "0 or more")
        known = " or ".join(NORMALISERS)
        need(self.normaliser in NORMALISERS, "--normaliser", self.normaliser, known)
        self._check_anomalies()
        self._check_schedule()
        if self.with_untuned and self.train.updates == 0:
            raise ConfigError(
                "--with-untuned cannot be used without training",
                got="--updates 0",
                hint="leave --with-untuned out: the untuned features alone are the same",
            )
        frozen, deepest = self.train.freeze_stages, max(self.stages)
        if self.detector == "patchcore" and self.train.updates and frozen > deepest:
            raise ConfigError(
                f"every stage that feeds the bank (--stages {','.join(map(str, self.stages))}) is "
                "frozen, so that training would change nothing",
                expected=f"--freeze-stages {deepest} or less",
                got=f"--freeze-stages {frozen}",
                hint=f"pass --freeze-stages {deepest}, or --updates 0 for the untuned extractor",
            )

    @property
    def is_weak(self) -> bool:
        """Whether some anomalies were known in training."""
        return self.weak or self.anomalous is not None

    def _check_anomalies(self) -> None:
        if self.weak and self.anomalous is not None:
            raise ConfigError(
                "--weak takes the set's negatives for anomalies, --anomalous a folder's images",
                hint="pass one of them",
            )
        if self.is_weak and self.expansion != FitConfig.expansion:
            raise ConfigError(
                "--expansion is of the training without known anomalies",
                got="--weak" if self.weak else "--anomalous",
                hint="leave --expansion out",
            )
        if self.detector == "cavga" and not self.weak:
            for option, value in (
                ("--negatives", self.train.negatives or self.train.shares),
                ("--levels", self.train.levels),
            ):
                if value:
                    raise ConfigError(
                        f"{option}: cavga is trained without negatives",
                        hint=f"leave {option} out, or pass --weak",
                    )

    @property
    def needs_untuned(self) -> bool:
        """Whether the detector looks with the network as it was before training, too."""
        is_guided = "guidance" in DETECTOR_OPTIONS[self.detector] and self.guidance
        return self.with_untuned or is_guided

    def _check_schedule(self) -> None:
        """Refuses what a detector's training makes no use of."""
        plain = TrainConfig()
        for name, option in IDLE[self.detector].items():
            if getattr(self.train, name) != getattr(plain, name):
                refuse_idle(self.detector, option)
        if IDLE[self.detector] and self.train.updates == 0:
            raise ConfigError(
                f"the detector {self.detector} has to be trained",
                expected="--updates 1 or more",
                got="--updates 0",
            )

    def detector_config(self) -> object:
        """The part that the detector itself needs."""
        from detector.detectors import CONFIGS

        kind = CONFIGS[self.detector]
        return kind(**{entry.name: getattr(self, entry.name) for entry in fields(kind)})

    def to_json(self) -> dict:
        """Plain JSON types, read back by `from_json`.

        Fields that came later are left out where they are as they were before there was a choice:
        models made before have the same JSON.
        """
        plain = asdict(self) | {"train": self.train.to_json()}
        return {name: plain[name] for name in plain if plain[name] != _LATER.get(name, _NEVER)}

    @classmethod
    def from_json(cls, data: dict) -> FitConfig:
        """The config of a model.json. Raises TypeError or ConfigError where it is malformed."""
        values = with_later_fields(data)
        values["train"] = TrainConfig(**values["train"])
        values["stages"] = tuple(values["stages"])
        return cls(**values)


def with_later_fields(data: dict) -> dict:
    """The JSON of a config with the fields that were left out."""
    return _LATER | data


def refuse_option_of_another(detector: str, name: str) -> None:
    """Raises ConfigError where the field `name` of FitConfig belongs to another detector."""
    for owner, options in DETECTOR_OPTIONS.items():
        if name in options and owner != detector and name not in DETECTOR_OPTIONS[detector]:
            raise ConfigError(
                f"{options[name]} is an option of the detector {owner}",
                got=f"--detector {detector}",
                hint=f"leave {options[name]} out, or take --detector {owner}",
            )


def refuse_idle(detector: str, option: str) -> None:
    """Raises ConfigError: an option of a training that this detector does not have."""
    raise ConfigError(
        f"{option} means nothing to the training of {detector}",
        got=f"--detector {detector}",
        hint=f"leave {option} out",
    )
