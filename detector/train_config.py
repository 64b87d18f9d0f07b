"""The training schedule, as one frozen object."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from manifests.devices import PRECISIONS
from manifests.errors import ConfigError

MAX_STAGES = 5


@dataclass(frozen=True)
class TrainConfig:
    """How the extractor is trained, whatever set and network it is trained with.

    Attributes:
        updates: steps of the optimiser; 0 leaves the network as it is.
        batch: normals per update; every class adds as many negatives.
        lr: learning rate at the start of its one cosine cycle down to 0.
        momentum: of SGD, in [0, 1).
        weight_decay: of SGD, on every trained weight.
        freeze_bn: keep the backbone's batch-norm statistics; their affine weights still train.
        frozen_start: updates at the start in which only the head is trained. As many as `updates`
            or more leave the backbone as it is.
        freeze_stages: the stem and the stages under this number are never trained, 0 to 5.
        jitter: half-width of the colour jitter, 0 to 0.5.
        seed: of the batches, the jitter and the head.
        precision: "fp32" or "bf16" (autocast; weights and optimiser stay fp32).
        checkpoint_every: updates between two checkpoints.

    Raises:
        ConfigError: a value outside its range, by the name of its option.

    Source: CutSwap (arXiv 2311.18332) for loss, SGD and lr; CutPaste for momentum, weight decay and
    jitter; `frozen_start` from CutPaste's public implementations; the other freezes are ours.
    """

    updates: int = 256
    batch: int = 32
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 3e-5
    freeze_bn: bool = False
    frozen_start: int = 20
    freeze_stages: int = 0
    jitter: float = 0.1
    seed: int = 0
    precision: str = "fp32"
    checkpoint_every: int = 16

    def __post_init__(self) -> None:
        _need_int("--updates", self.updates, low=0)
        _need_int("--batch", self.batch, low=1)
        _need_int("--frozen-start", self.frozen_start, low=0)
        _need_int("--freeze-stages", self.freeze_stages, low=0, high=MAX_STAGES)
        _need_int("--seed", self.seed, low=0)
        _need_int("--checkpoint-every", self.checkpoint_every, low=1)
        _need("--lr", self.lr, _is_number(self.lr) and self.lr > 0, "above 0")
        _need(
            "--momentum",
            self.momentum,
            _is_number(self.momentum) and 0 <= self.momentum < 1,
            "at least 0, under 1",
        )
        _need(
            "--weight-decay",
            self.weight_decay,
            _is_number(self.weight_decay) and self.weight_decay >= 0,
            "0 or more",
        )
        _need(
            "--jitter", self.jitter, _is_number(self.jitter) and 0 <= self.jitter <= 0.5, "0 to 0.5"
        )
        _need("--precision", self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))
        _need("--freeze-bn", self.freeze_bn, isinstance(self.freeze_bn, bool), "true or false")

    def to_json(self) -> dict[str, int | float | bool | str]:
        """Plain JSON types; `TrainConfig(**data)` reads them back."""
        return asdict(self)

    def lr_at(self, update: int) -> float:
        """The learning rate of an update.

        Args:
            update: its number, from 0 to `updates`.

        Returns:
            `lr` at 0, half of it in the middle, 0 at `updates`.

        Source: SGDR (Loshchilov & Hutter 2017), eq. 5 with one cycle, eta_min = 0.
        """
        return 0.5 * self.lr * (1.0 + math.cos(math.pi * update / max(1, self.updates)))


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _need(option: str, got: object, is_met: bool, expected: str) -> None:
    if not is_met:
        raise ConfigError(f"{option} cannot be used", expected=expected, got=repr(got))


def _need_int(option: str, value: object, *, low: int, high: int | None = None) -> None:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    is_met = is_int and value >= low and (high is None or value <= high)
    _need(option, value, is_met, f"{low} or more" if high is None else f"{low} to {high}")
