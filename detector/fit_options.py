"""The options of `fit`, and the config they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from detector.config import (
    DEFAULT_DETECTOR,
    DETECTOR_OPTIONS,
    TRAINED_WITH,
    FitConfig,
    refuse_idle,
    refuse_option_of_another,
)
from detector.detector_options import CAVGA, GUIDED, PATCHCORE, SCORES
from detector.schedules import DEFAULT_SCHEDULE, FASTER_IN_BF16, IDLE, scheduled
from detector.train_config import TrainConfig
from detector.training_options import TRAINING
from manifests import command_line as common

PRESETS: dict[str, dict] = {
    "paper": {
        "network": "resnet18",
        "schedule": "paper",
        "coreset": 0.001,
        "projection_dim": 128,
        "width": 64,
        "window": 21,
        "normaliser": "sigmoid",
    },
}

_FIRST = (
    click.option(
        "--detector",
        type=click.Choice(list(DETECTOR_OPTIONS)),
        default=DEFAULT_DETECTOR,
        show_default=True,
        help="patchcore: nearest normal patch; gaussian: CutPaste's density of whole images; "
        "guided-seg: SGSF's segmentation guided by a similar normal image; cavga: attention-guided "
        "autoencoder.",
    ),
    click.option(
        "--network",
        default="efficientnet_lite0",
        show_default=True,
        help="Extractor: efficientnet_lite0 (embedded), resnet18 (paper), or any timm name.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="File with the network's weights (.pth or .safetensors).",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="paper: ResNet18, its schedule and sizes, coreset 0.001 sought in 128 dimensions.",
    ),
)
_SECTIONS = {
    "Training": TRAINING,
    "PatchCore and Gaussian": PATCHCORE,
    "guided-seg": GUIDED,
    "cavga": CAVGA,
    "Scores and thresholds": SCORES,
}
SECTIONS = {heading: common.parameter_names(options) for heading, options in _SECTIONS.items()}
"""Which options stand under which heading of the help."""


def fit_options(command: Callable) -> Callable:
    """Everything that shapes a model."""
    every = (*_FIRST, *(option for options in _SECTIONS.values() for option in options))
    return common.with_options(command, every)


def fit_config(
    context: click.Context, options: Mapping[str, Any], device: str, *, n_processes: int = 1
) -> FitConfig:
    """The config that the options make, a preset among them, for so many processes.

    Raises:
        ConfigError: a value out of range, or an option typed for another detector.
    """
    from detector.anomalous_images import files_digest
    from manifests.devices import has_fast_bf16

    _refuse_typed_options_of_others(context, options["detector"])
    detector = options["detector"]
    negatives = options["negatives"] or ()
    precision = options["precision"]
    if precision == "auto":
        is_faster = detector in FASTER_IN_BF16 and has_fast_bf16(device)
        precision = "bf16" if is_faster else "fp32"
    train = scheduled(TrainConfig(), options["schedule"] or DEFAULT_SCHEDULE, detector=detector)
    train = replace(train, **_typed_over(train, options))
    is_split = train.updates > 0 and "virtual_batches" not in IDLE[detector]
    train = replace(
        train,
        momentum=options["momentum"],
        jitter=options["jitter"],
        checkpoint_every=options["checkpoint_every"],
        precision=precision,
        seed=options["seed"],
        negatives=tuple(kind for kind, _ in negatives),
        shares=_shares([share for _, share in negatives], detector),
        levels=options["levels"] or (),
        ema=options["ema"],
        hold_out=options["hold_out"],
        cache_activations=options["cache_activations"],
        tile=options["tile"] if detector == "patchcore" and train.updates else None,
        # Without training there are no batches, and the model is that of one process.
        virtual_batches=options["virtual_batches"] or (n_processes if is_split else 1),
    )
    # A preset's values for another detector do not count: nobody typed them.
    own = DETECTOR_OPTIONS[detector]
    values = {name: options[_parameter(option)] for name, option in own.items()}
    if values.get("anomalous") is not None:
        values["anomalous"] = files_digest(values["anomalous"])
    return FitConfig(
        network=options["network"],
        train=train,
        detector=detector,
        sigma_px=options["sigma"],
        false_alarm_rate=options["false_alarm_rate"],
        precision=options["feature_precision"],
        batch=options["batch_images"],
        seed=options["seed"],
        **values,
    )


def _shares(typed: Sequence[float | None], detector: str) -> tuple[float, ...]:
    """Negatives per normal of each kind; () where the training's own numbers hold."""
    if all(share is None for share in typed):
        return ()
    shares = tuple(1.0 if share is None else share for share in typed)
    # One each is what an extractor's training does by itself, and models say it by saying nothing.
    is_usual = detector not in TRAINED_WITH and set(shares) == {1.0}
    return () if is_usual else shares


def _typed_over(schedule: TrainConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces a schedule's values: what was typed, and what follows from it."""
    names: tuple[str, ...] = ("updates", "batch", "lr", "weight_decay", "freeze_bn", "frozen_start")
    names += ("freeze_stages", "loss")
    values = {name: options[name] for name in names if options[name] is not None}
    if "head_stage" in IDLE[options["detector"]]:
        return values
    stage = options["head_stage"]
    if stage is not None:
        return values | {"head_stage": None if stage == "end" else stage}
    loss = values.get("loss", schedule.loss)
    deepest = schedule.head_stage
    is_out_of_reach = deepest is not None and values.get("freeze_stages", 0) > deepest
    if options["detector"] == "gaussian" or is_out_of_reach:
        # The Gaussian looks at what the network gives at its end; and where the schedule's stage
        # is frozen, its end is what is left to train.
        values = {"loss": "image"} | values | {"head_stage": None}
    elif loss == "patch":
        values["head_stage"] = None  # cells have no image head
    return values


def _refuse_typed_options_of_others(context: click.Context, detector: str) -> None:
    def is_typed(option: str) -> bool:
        source = context.get_parameter_source(_parameter(option))
        return source is click.core.ParameterSource.COMMANDLINE

    for owner, options in DETECTOR_OPTIONS.items():
        for name, option in options.items() if owner != detector else ():
            if is_typed(option):
                refuse_option_of_another(detector, name)
    for option in IDLE[detector].values():
        if is_typed(option):
            refuse_idle(detector, option)


def _parameter(option: str) -> str:
    """click's name of an option's value."""
    return option.removeprefix("--").replace("-", "_")
