"""What `fit` does where nobody says anything else."""

from __future__ import annotations

from dataclasses import replace

from detector.config import DEFAULT_DETECTOR, FitConfig
from detector.schedules import DEFAULT_SCHEDULE, scheduled
from detector.train_config import TrainConfig

CHECKPOINT_EVERY = 8


def default_config(detector: str = DEFAULT_DETECTOR) -> FitConfig:
    """The config of `cutswap-det fit --detector DETECTOR --precision fp32`.

    The fields of `TrainConfig()` are the paper's where it states them; this is the schedule that
    docs/results.md recommends. Change it with `dataclasses.replace`.

    Args:
        detector: "patchcore", "gaussian", "guided-seg" or "cavga".

    Raises:
        ConfigError: no such detector.

    Source: ours.
    """
    plain = FitConfig(detector=detector, train=TrainConfig(updates=1))
    train = scheduled(plain.train, DEFAULT_SCHEDULE, detector=detector)
    return FitConfig(detector=detector, train=replace(train, checkpoint_every=CHECKPOINT_EVERY))
