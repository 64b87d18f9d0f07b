"""Training schedules by name, for every detector; anything the user types wins over them."""

from __future__ import annotations

from dataclasses import replace

from detector.train_config import TrainConfig

# See docs/results.md for the evidence.
_EXTRACTOR: dict[str, dict] = {
    "gentle": {
        "updates": 128,
        "batch": 32,
        "lr": 0.01,
        "weight_decay": 3e-5,
        "freeze_bn": True,
        "frozen_start": 10,
        "freeze_stages": 2,
        "head_stage": 3,
        "loss": "both",
    },
    "paper": {
        "updates": 256,
        "batch": 32,
        "lr": 0.03,
        "weight_decay": 3e-5,
        "freeze_bn": False,
        "frozen_start": 20,
        "freeze_stages": 0,
        "head_stage": None,
        "loss": "image",
    },
}
# The Gaussian looks at what the network gives at its end.
_GAUSSIAN = {
    name: schedule | {"head_stage": None, "loss": "image"} for name, schedule in _EXTRACTOR.items()
}
# A batch is so many normals and, unless shares say otherwise, three times as many negatives.
_GUIDED: dict[str, dict] = {
    "gentle": {
        "updates": 400,
        "batch": 4,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "freeze_bn": True,
        "freeze_stages": 2,
    },
    "paper": {
        "updates": 20_000,
        "batch": 4,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "freeze_bn": False,
        "freeze_stages": 0,
    },
}
_CAVGA: dict[str, dict] = {
    "gentle": {
        "updates": 400,
        "batch": 8,
        "lr": 2e-4,
        "weight_decay": 0.0,
        "freeze_stages": 2,
    },
    "paper": {
        "updates": 20_000,
        "batch": 16,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "freeze_stages": 0,
    },
}
SCHEDULES: dict[str, dict[str, dict]] = {
    "patchcore": _EXTRACTOR,
    "gaussian": _GAUSSIAN,
    "guided-seg": _GUIDED,
    "cavga": _CAVGA,
}
DEFAULT_SCHEDULE = "gentle"
FASTER_IN_BF16 = ("patchcore", "gaussian")
"""Detectors whose training `--precision auto` does in bf16 where the device is fast at it. The
others' decoders gain nothing: an update of guided-seg at 128 px takes 1.02 s of processor time in
bf16 and 0.86 in fp32 on a processor with AMX."""
NAMES = tuple(_EXTRACTOR)

# What of a schedule means nothing to a detector's training, and the options for it.
_NOT_BY_ADAM = {
    "momentum": "--momentum",
    "frozen_start": "--frozen-start",
    "loss": "--loss",
    "head_stage": "--head-stage",
    "ema": "--ema",
    "cache_activations": "--cache-activations",
    "virtual_batches": "--virtual-batches",
}
IDLE: dict[str, dict[str, str]] = {
    "patchcore": {},
    "gaussian": {},
    "guided-seg": _NOT_BY_ADAM,
    # Its batch norms always keep their statistics.
    "cavga": _NOT_BY_ADAM | {"freeze_bn": "--freeze-bn"},
}


def scheduled(base: TrainConfig, schedule: str, *, detector: str = "patchcore") -> TrainConfig:
    """`base` with what a detector's schedule of this name fixes."""
    own = {name: getattr(TrainConfig(), name) for name in IDLE[detector]}
    return replace(base, **own | SCHEDULES[detector][schedule])
