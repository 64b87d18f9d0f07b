"""The options of each detector, and those of what all of them say."""

from __future__ import annotations

from pathlib import Path

import click

from detector.config import LATENTS, NORMALISERS
from manifests.option_types import BytesType, ListType

PATCHCORE = (
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
        "--memory-budget",
        type=BytesType(),
        default="4GB",
        show_default=True,
        help="What features of training images may take; where they need more, they are looked at "
        "in blocks.",
    ),
    click.option(
        "--tile",
        type=click.IntRange(min=1),
        metavar="PX",
        help="Show PatchCore's network overlapping tiles of this size instead of the whole canvas, "
        "and train it on such windows: for sets built with a large --image-size.",
    ),
)

GUIDED = (
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
        "--window",
        default=5,
        show_default=True,
        help="Side in px at 256 px of the window whose largest mean in the map is the image score.",
    ),
)

CAVGA = (
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
        default="ratio",
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
)

SCORES = (
    click.option(
        "--sigma", default=4.0, show_default=True, help="Blur of the map in px at 256 px."
    ),
    click.option(
        "--false-alarm-rate",
        default=0.01,
        show_default=True,
        help="Share of good parts that may exceed the thresholds.",
    ),
    click.option(
        "--feature-precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the features in the bank and in scoring.",
    ),
    click.option("--batch-images", default=8, show_default=True, help="Images per feature pass."),
)
