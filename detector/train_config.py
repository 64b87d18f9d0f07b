"""The training schedule, as one frozen object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeGuard

from detector.tiles import check_tile
from manifests.devices import PRECISIONS
from manifests.errors import ConfigError

MAX_STAGES = 5
MAX_SHARE = 100.0
MAX_HOLD_OUT = 0.5
LOSSES = ("image", "patch", "both")
# Fields of TrainConfig that the first models do not have, and what they do not say then.
LATER_FIELDS = {"virtual_batches": 1, "hold_out": 0.0, "tile": None}
# The patch loss looks at this stage and a shallower one; freezing beyond it leaves it nothing to
# train.
_DEEPEST_PATCH_STAGE = 3


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
        negatives: the kinds (policies) of negatives that are trained on, one class each; empty for
            all kinds in the set, in the order in which its recipe names them.
        shares: negatives of each kind per normal, above 0 to 100, in the order of the kinds; empty
            for one each. A batch holds `max(1, round(batch * share))` of a kind.
        levels: saliency levels whose negatives are trained on; empty for all. Negatives of
            no single level (-1), made without saliency or with all levels' maps, always count.
        loss: "image" (which kind is the image?), "patch" (which cells were edited?) or "both", the
            sum.
        head_stage: the stage whose features the image head looks at, pooled; what lies beyond it is
            not run and not trained. None for what the network itself pools at its end.
        ema: decay of the weights' moving average that is returned in place of the last weights, in
            [0, 1); 0 for none. See `detector.weight_average`.
        cache_activations: keep what the frozen part makes of every image in memory, as float16, and
            run only what trains. Needs `freeze_stages` of 1 or more. The jitter then is one per
            image of the set, whatever the seed, instead of a fresh one per update.
        virtual_batches: equal parts of every batch, each with its own batch-norm statistics; their
            gradients are averaged before the step. Processes that train together share them out.
        hold_out: share of the normals that training leaves out, 0 to 0.5; thresholds then come from
            their scores alone. See `detector.hold_out`.
        tile: side in px of the windows of a large canvas that an update sees, the tiles of
            `detector.tiles`; None for all of it.

    Lists are taken for the tuples, so that the JSON of a config makes it again.

    Raises:
        ConfigError: a value outside its range, by the name of its option, or two that exclude each
            other.

    Source: CutSwap (arXiv 2311.18332) for loss, SGD and lr; CutPaste for momentum, weight decay and
    jitter; `frozen_start` from CutPaste's public implementations; Polyak & Juditsky 1992 for
    averaging; the rest is ours.
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
    negatives: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    levels: tuple[int, ...] = ()
    loss: str = "image"
    head_stage: int | None = None
    ema: float = 0.0
    cache_activations: bool = False
    virtual_batches: int = 1
    hold_out: float = 0.0
    tile: int | None = None

    def __post_init__(self) -> None:
        for name in ("negatives", "shares", "levels"):
            if isinstance(getattr(self, name), list):  # as JSON has it
                object.__setattr__(self, name, tuple(getattr(self, name)))
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
        self._check_negatives()
        _need("--loss", self.loss, self.loss in LOSSES, " or ".join(LOSSES))
        _need("--ema", self.ema, _is_number(self.ema) and 0 <= self.ema < 1, "at least 0, under 1")
        is_flag = isinstance(self.cache_activations, bool)
        _need("--cache-activations", self.cache_activations, is_flag, "true or false")
        if self.cache_activations and self.freeze_stages == 0:
            raise ConfigError(
                "--cache-activations keeps the activations of frozen stages, and none is frozen",
                expected="--freeze-stages 1 or more",
                got="--freeze-stages 0",
                hint="pass --freeze-stages 2, or leave out --cache-activations",
            )
        check_tile(self.tile)
        if self.cache_activations and self.tile is not None:
            raise ConfigError(
                "--cache-activations keeps what a whole canvas gives, and --tile trains on windows",
                hint="leave one of them out",
            )
        _need_int("--virtual-batches", self.virtual_batches, low=1)
        if self.batch % self.virtual_batches:
            raise ConfigError(
                "--virtual-batches does not split the batch evenly",
                expected=f"a divisor of --batch {self.batch}",
                got=self.virtual_batches,
                hint="change --virtual-batches or --batch",
            )
        _need(
            "--hold-out",
            self.hold_out,
            _is_number(self.hold_out) and 0 <= self.hold_out <= MAX_HOLD_OUT,
            f"0 to {MAX_HOLD_OUT:g}",
        )
        if self.hold_out and not self.updates:
            raise ConfigError(
                "--hold-out keeps images out of a training that is not done",
                got="--updates 0",
                hint="leave --hold-out out: without training no image is known",
            )
        self._check_head_stage()
        if self.loss != "image" and self.freeze_stages > _DEEPEST_PATCH_STAGE:
            raise ConfigError(
                f"--loss {self.loss} trains up to stage {_DEEPEST_PATCH_STAGE}, and all of it is "
                "frozen",
                expected=f"--freeze-stages {_DEEPEST_PATCH_STAGE} or less",
                got=f"--freeze-stages {self.freeze_stages}",
            )

    def _check_head_stage(self) -> None:
        stage = self.head_stage
        if stage is None:
            return
        _need_int("--head-stage", stage, low=0, high=MAX_STAGES - 1)
        if self.loss == "patch":
            raise ConfigError(
                "--head-stage is of the image head, and --loss patch has none",
                expected="--loss image or both",
                got="--loss patch",
                hint="leave out --head-stage",
            )
        if stage < self.freeze_stages:
            raise ConfigError(
                f"--head-stage {stage} is frozen, so that nothing would be trained",
                expected=f"--freeze-stages {stage} or less",
                got=f"--freeze-stages {self.freeze_stages}",
            )

    def _check_negatives(self) -> None:
        kinds, shares, levels = self.negatives, self.shares, self.levels
        is_met = (
            isinstance(kinds, tuple)
            and all(isinstance(kind, str) and kind and kind != "normal" for kind in kinds)
            and _is_distinct(kinds)
        )
        _need("--negatives", kinds, is_met, "different policies of the set")
        is_met = isinstance(shares, tuple) and all(
            _is_number(share) and 0 < share <= MAX_SHARE for share in shares
        )
        _need("--negatives", shares, is_met, f"shares above 0, at most {MAX_SHARE:g}")
        if kinds and shares and len(kinds) != len(shares):
            raise ConfigError(
                "--negatives cannot be used: kinds and shares are not equally many",
                expected=f"{len(kinds)} shares",
                got=len(shares),
            )
        is_met = (
            isinstance(levels, tuple)
            and all(_is_int(level) and level >= 0 for level in levels)
            and _is_distinct(levels)
        )
        _need("--levels", levels, is_met, "different levels, 0 or more")

    def to_json(self) -> dict[str, object]:
        """Plain JSON types; `TrainConfig(**data)` reads them back.

        Fields that came later are left out where they change nothing, so that what was written
        before keeps its digests.
        """
        plain = asdict(self)
        for name, idle in LATER_FIELDS.items():
            if plain[name] == idle:
                del plain[name]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}

    def lr_at(self, update: int) -> float:
        """The learning rate of an update.

        Args:
            update: its number, from 0 to `updates`.

        Returns:
            `lr` at 0, half of it in the middle, 0 at `updates`.

        Source: SGDR (Loshchilov & Hutter 2017), eq. 5 with one cycle, eta_min = 0.
        """
        return 0.5 * self.lr * (1.0 + math.cos(math.pi * update / max(1, self.updates)))


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_distinct(values: Sequence[object]) -> bool:
    return len(set(values)) == len(values)


def _need(option: str, got: object, is_met: bool, expected: str) -> None:
    if not is_met:
        raise ConfigError(f"{option} cannot be used", expected=expected, got=repr(got))


def _need_int(option: str, value: object, *, low: int, high: int | None = None) -> None:
    is_met = _is_int(value) and value >= low and (high is None or value <= high)
    _need(option, value, is_met, f"{low} or more" if high is None else f"{low} to {high}")
