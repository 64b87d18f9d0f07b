"""The options of `fit`, and the config they make.

Beside `cli.py`, the only module here that knows click.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from detector.config import (
    DEFAULT_DETECTOR,
    DETECTOR_OPTIONS,
    LATENTS,
    NORMALISERS,
    FitConfig,
    refuse_idle,
    refuse_option_of_another,
)
from detector.schedules import DEFAULT_SCHEDULE, IDLE, NAMES, scheduled
from detector.train_config import LOSSES, TrainConfig
from manifests.option_types import BytesType, ListType


class SharesType(click.ParamType):
    """`A,B:0.5`: different names, each with a number, 1 where none is given."""

    name = "A[:N],B..."

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        found = {}
        for item in str(value).split(","):
            kind, colon, number = (part.strip() for part in item.partition(":"))
            try:
                share = float(number) if colon else 1.0
            except ValueError:
                self.fail(f"{item!r}: {number!r} is not a number", param, ctx)
            if not kind or kind in found:
                self.fail(f"{value!r} has an empty or repeated entry", param, ctx)
            found[kind] = share
        return tuple(found.items())


class HeadStageType(click.ParamType):
    """A stage's number, or `end` for what the network pools itself."""

    name = "STAGE|end"

    def convert(self, value, param, ctx):
        if value == "end" or isinstance(value, int):
            return value
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither a stage's number nor 'end'", param, ctx)
        return int(value)


PRESETS: dict[str, dict] = {
    "paper": {
        "network": "resnet18",
        "schedule": "paper",
        "coreset": 0.001,
        "projection_dim": 128,
        "width": 64,
    },
}

_OPTIONS = (
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
    click.option(
        "--schedule",
        type=click.Choice(NAMES),
        help="Training schedule; single options below win over it.  [default: gentle]",
    ),
    click.option(
        "--updates",
        type=click.IntRange(min=0),
        help="Training updates; 0 leaves the extractor untuned.  [default: of the schedule]",
    ),
    click.option("--lr", type=float, help="Learning rate.  [default: of the schedule]"),
    click.option(
        "--freeze-bn/--train-bn",
        default=None,
        help="Batch-norm statistics in training.  [default: of the schedule]",
    ),
    click.option(
        "--frozen-start",
        type=click.IntRange(min=0),
        help="Updates that train the head only.  [default: of the schedule]",
    ),
    click.option(
        "--freeze-stages",
        type=click.IntRange(min=0, max=5),
        help="Keep the stem and the stages below this one as they are.  [default: of the schedule]",
    ),
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        help="Normals per update; negatives come with them.  [default: of the schedule]",
    ),
    click.option(
        "--virtual-batches",
        type=click.IntRange(min=1),
        help="Parts of a batch with batch-norm statistics of their own.  [default: 1; under "
        "torchrun, one per process]",
    ),
    click.option(
        "--negatives",
        type=SharesType(),
        help="Kinds trained on, with their number per normal if not 1.  [default: all in the set]",
    ),
    click.option(
        "--levels",
        type=ListType(int),
        help="Saliency levels whose negatives are trained on.  [default: all in the set]",
    ),
    click.option(
        "--loss",
        type=click.Choice(LOSSES),
        help="What is learned: each image's kind, its edited cells, or both.  [default: of the "
        "schedule]",
    ),
    click.option(
        "--head-stage",
        type=HeadStageType(),
        help="Stage that the images' kind is read from: 0 to 4, or end.  [default: of the "
        "schedule]",
    ),
    click.option(
        "--ema",
        default=0.0,
        show_default=True,
        help="Decay of the weights' moving average; 0: off.",
    ),
    click.option(
        "--cache-activations",
        is_flag=True,
        help="Keep what frozen stages give in memory, for one fixed jitter per image; needs "
        "--freeze-stages.",
    ),
    click.option("--momentum", default=0.9, show_default=True, help="SGD momentum."),
    click.option("--weight-decay", type=float, help="Weight decay.  [default: of the schedule]"),
    click.option(
        "--jitter", default=0.1, show_default=True, help="Colour jitter, all classes alike."
    ),
    click.option(
        "--checkpoint-every", default=8, show_default=True, help="Updates between checkpoints."
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Of training; auto takes bf16 where the processor is fast at it.",
    ),
    click.option(
        "--feature-precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the features in the bank and in scoring.",
    ),
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
        "--stages",
        type=ListType(int),
        default="2,3",
        show_default=True,
        help="Stages that feed PatchCore's bank; stage s has stride 2^(s+1).",
    ),
    click.option(
        "--coreset", default=0.01, show_default=True, help="Share of patches in the bank."
    ),
    click.option("--coreset-max", type=click.IntRange(min=1), help="At most this many patches."),
    click.option(
        "--projection-dim",
        default=384,
        show_default=True,
        help="Dimensions of the coreset search; wider features are projected.",
    ),
    click.option("--reweight", is_flag=True, help="PatchCore's neighbourhood reweighting."),
    click.option(
        "--with-untuned",
        is_flag=True,
        help="Compare the untuned extractor's features as well; twice the time and memory.",
    ),
    click.option(
        "--guidance/--no-guidance",
        default=True,
        show_default=True,
        help="Whether a similar normal image guides the segmentation.",
    ),
    click.option(
        "--references",
        default=128,
        show_default=True,
        help="Normal images that the model keeps as guides, at most; their pixels go with it.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=4),
        help="Channels of a decoder's finest features.  [default: of the detector]",
    ),
    click.option(
        "--latent",
        type=click.Choice(LATENTS),
        default="spatial",
        show_default=True,
        help="Whether CAVGA's latent keeps the grid of the feature map.",
    ),
    click.option(
        "--latent-channels", default=32, show_default=True, help="Channels of CAVGA's latent."
    ),
    click.option(
        "--latent-stage",
        default=4,
        show_default=True,
        help="Stage whose feature map CAVGA's latent and attention are of.",
    ),
    click.option(
        "--expansion",
        default=0.01,
        show_default=True,
        help="Weight of CAVGA's attention expansion; 0: none.",
    ),
    click.option(
        "--normaliser",
        type=click.Choice(NORMALISERS),
        default="sigmoid",
        show_default=True,
        help="How evidence becomes CAVGA's attention.",
    ),
    click.option(
        "--weak",
        is_flag=True,
        help="Train CAVGA with the set's negatives as known anomalies.",
    ),
    click.option(
        "--anomalous",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Train CAVGA with the images in DIR as known anomalies; eval leaves them out.",
    ),
    click.option(
        "--sigma", default=4.0, show_default=True, help="Blur of the map in px at 256 px."
    ),
    click.option(
        "--false-alarm-rate",
        default=0.01,
        show_default=True,
        help="Share of good parts that may exceed the thresholds.",
    ),
    click.option("--batch-images", default=8, show_default=True, help="Images per feature pass."),
    click.option(
        "--memory-budget",
        type=BytesType(),
        default="4GB",
        show_default=True,
        help="What features of training images may take; where they need more, they are looked at "
        "in blocks.",
    ),
)


def fit_options(command: Callable) -> Callable:
    """Everything that shapes a model."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


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
    negatives = options["negatives"] or ()
    precision = options["precision"]
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    detector = options["detector"]
    train = scheduled(TrainConfig(), options["schedule"] or DEFAULT_SCHEDULE, detector=detector)
    train = replace(train, **_typed_over(train, options))
    train = replace(
        train,
        momentum=options["momentum"],
        jitter=options["jitter"],
        checkpoint_every=options["checkpoint_every"],
        precision=precision,
        seed=options["seed"],
        negatives=tuple(kind for kind, _ in negatives),
        shares=() if all(share == 1 for _, share in negatives) else tuple(s for _, s in negatives),
        levels=options["levels"] or (),
        ema=options["ema"],
        cache_activations=options["cache_activations"],
        # Without training there are no batches, and the model is that of one process.
        virtual_batches=options["virtual_batches"] or (n_processes if train.updates else 1),
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


def _typed_over(schedule: TrainConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces a schedule's values: what was typed, and what follows from it."""
    names = ("updates", "batch", "lr", "weight_decay", "freeze_bn", "frozen_start")
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
