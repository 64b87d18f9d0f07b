"""The options of a training, whatever is trained."""

from __future__ import annotations

from typing import Any

import click

from detector.default_config import CHECKPOINT_EVERY
from detector.schedules import NAMES
from detector.train_config import LOSSES
from manifests.option_types import ListType


class SharesType(click.ParamType):
    """`A,B:0.5`: different names, each with a number, None where none is given."""

    name = "A[:N],B..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, float | None], ...]:
        if isinstance(value, tuple):
            return value
        found = {}
        for item in str(value).split(","):
            kind, colon, number = (part.strip() for part in item.partition(":"))
            try:
                share = float(number) if colon else None
            except ValueError:
                self.fail(f"{item!r}: {number!r} is not a number", param, ctx)
            if not kind or kind in found:
                self.fail(f"{value!r} has an empty or repeated entry", param, ctx)
            found[kind] = share
        return tuple(found.items())


class HeadStageType(click.ParamType):
    """A stage's number, or `end` for what the network pools itself."""

    name = "STAGE|end"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "end" or isinstance(value, int):
            return value
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither a stage's number nor 'end'", param, ctx)
        return int(value)


TRAINING = (
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
        help="Kinds trained on, with their number per normal.  [default: all in the set; one of "
        "each per normal, of all together 3 for guided-seg and 0.5 for cavga]",
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
        "--hold-out",
        default=0.0,
        show_default=True,
        help="Share of the good images that training leaves out; thresholds then come from these "
        "alone.",
    ),
    click.option(
        "--checkpoint-every",
        default=CHECKPOINT_EVERY,
        show_default=True,
        help="Updates between checkpoints.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Of training; auto takes bf16 where detector and processor are faster with it.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=4),
        help="Channels of a decoder's finest features, in guided-seg and cavga.  [default: of the "
        "detector]",
    ),
)
