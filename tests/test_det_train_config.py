"""The training schedule: ranges, contradictions, JSON."""

from __future__ import annotations

import json
import math

import pytest

from detector.train_config import TrainConfig
from manifests.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("updates", -1),
        ("updates", 2.0),
        ("batch", 0),
        ("batch", True),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", 10**400),
        ("lr", "0.1"),
        ("momentum", 1.0),
        ("weight_decay", -1e-5),
        ("freeze_bn", 1),
        ("frozen_start", -1),
        ("freeze_stages", 6),
        ("jitter", 0.6),
        ("seed", -1),
        ("precision", "fp16"),
        ("checkpoint_every", 0),
        ("negatives", ("swap", "swap")),
        ("negatives", ("normal",)),
        ("negatives", "swap"),
        ("negatives", (1,)),
        ("levels", (2, 2)),
        ("levels", (-1,)),
        ("levels", (1.0,)),
        ("loss", "pixel"),
        ("ema", 1.0),
        ("ema", -0.1),
        ("cache_activations", 1),
    ],
)
def test_config_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("shares", [(0.0,), (101,), (math.nan,), (True,), 1.0])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ConfigError, match="--negatives cannot be used"):
        TrainConfig(shares=shares)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"negatives": ("swap", "scar"), "shares": (1.0,)}, r"2 shares, got 1"),
        ({"cache_activations": True}, r"--freeze-stages 1 or more"),
        ({"loss": "patch", "freeze_stages": 4}, r"--loss patch .*--freeze-stages 3 or less"),
        ({"loss": "both", "freeze_stages": 5}, r"--loss both .*--freeze-stages 3 or less"),
    ],
)
def test_config_values_that_exclude_each_other_are_refused(fields, named):
    with pytest.raises(ConfigError, match=named):
        TrainConfig(**fields)


def test_config_survives_json():
    config = TrainConfig(
        updates=9,
        freeze_bn=True,
        precision="bf16",
        negatives=("scar", "swap"),
        shares=(0.5, 2),
        levels=(3, 2),
        loss="both",
        ema=0.9,
        freeze_stages=2,
        cache_activations=True,
    )
    assert TrainConfig(**json.loads(json.dumps(config.to_json()))) == config
    assert config.to_json()["levels"] == [3, 2]
