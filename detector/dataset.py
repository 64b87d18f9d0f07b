"""What training sees: batches of normals and of each kind of negatives.

A batch depends on the seed and the number of the update only, never on what was drawn before, so
that an interrupted training goes on with exactly the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from detector.training_batch import TrainingBatch, part_places
from manifests.errors import ConfigError, ModelError

_EPOCH_STREAM, _REPLACEMENT_STREAM, _NEGATIVE_STREAM = 0, 1, 2


class NegativeSource(Protocol):
    """The part of `manifests.negative_set.NegativeSet` that sampling needs.

    Where there is a `manifest` too, its recipe's "policies" give the kinds their order.
    """

    @property
    def digest(self) -> str: ...
    @property
    def n_normals(self) -> int: ...
    @property
    def negative_normal(self) -> np.ndarray: ...  # (R,) the normal of every negative
    @property
    def negative_policy(self) -> np.ndarray: ...  # (R,) its policy's name, str
    @property
    def negative_level(self) -> np.ndarray: ...  # (R,) its saliency level, -1 for none

    def normal(self, index: int) -> Any: ...  # has .image (H, W, 3) uint8

    def negative_image(self, index: int) -> np.ndarray: ...  # (H, W, 3) uint8

    def __getitem__(self, index: int) -> Any: ...  # has .image, and .mask (H, W) bool


class TripletSampler:
    """Draws batches of normals and of their negatives, kind by kind, from a negative set.

    Every normal comes with its own negatives of each kind, drawn over all levels in play and all
    repeats: one of each, or as many as the kind's share says. Normals that lack a kind altogether
    are left out. An epoch is a random order of the normals cut into whole batches; where there are
    fewer normals than a batch holds, they are drawn with replacement.

    Args:
        negative_set: an open set; it is read, never changed, and stays open.
        batch: normals per batch B, at least 1.
        seed: of all draws, at least 0.
        negatives: the policies that are the other classes, in the order of their labels from 1 on;
            empty for all that the set has, in the order of its recipe (by name where it has none).
        shares: negatives of each kind per normal: `max(1, round(B * share))` in a batch (halves to
            even). Under 1, the first of the batch's normals own them, whose order is random; over
            1, the normals take turns, each time with a fresh draw. Empty for 1 each.
        levels: saliency levels whose negatives are in play, beside those without one (-1); empty
            for all.
        left_out: (n_normals,) bool, normals that are not drawn; None for none.

    Attributes:
        labels: the class names by label, `("normal", *negatives)`.
        shares: of each kind, as numbers.
        levels: as given.
        counts: images of each class in a batch, by label.
        rows: (M,) int64, every image that can be drawn, by the numbers of `TrainingBatch.rows`.
        n_usable: normals that have a negative of every kind.
        n_skipped: normals that do not, those left out aside.
        is_with_replacement: whether `n_usable < batch`.
        set_digest: the digest of the negative set.

    Raises:
        ConfigError: a batch under 1, a negative seed, a kind twice, shares that are not as many as
            the kinds or not above 0, a level that the set has not.
        ModelError: the set has no negative of a kind, or fewer than two normals have all of them.

    Source: CutSwap (arXiv 2311.18332), three equal parts; the pairing with its own negatives is
    CutPaste's; shares, levels and the deterministic order are ours.
    """

    def __init__(
        self,
        negative_set: NegativeSource,
        *,
        batch: int = 32,
        seed: int = 0,
        negatives: Sequence[str] = (),
        shares: Sequence[float] = (),
        levels: Sequence[int] = (),
        left_out: np.ndarray | None = None,
    ) -> None:
        if batch < 1:
            raise ConfigError("the batch is too small", expected="at least 1", got=batch)
        if seed < 0:
            raise ConfigError("the seed is negative", expected="at least 0", got=seed)
        if len(set(negatives)) != len(negatives) or "normal" in negatives:
            raise ConfigError("negatives must be different policies", got=", ".join(negatives))
        kinds = tuple(negatives) or kinds_of(negative_set)
        self._set = negative_set
        self.normals_per_batch = batch
        self.seed = seed
        self.labels: tuple[str, ...] = ("normal", *kinds)
        self.shares = _shares(shares, kinds)
        self.levels = tuple(levels)
        self.counts = (batch, *(max(1, round(batch * share)) for share in self.shares))
        self.set_digest = negative_set.digest
        n_normals = int(negative_set.n_normals)
        policies = np.asarray(negative_set.negative_policy)
        is_in_play = _is_in_play(negative_set, self.levels)
        _need_every_kind(kinds, policies, policies[is_in_play], self.levels)
        owners = np.asarray(negative_set.negative_normal, dtype=np.int64)
        is_wanted = np.ones(n_normals, dtype=bool) if left_out is None else ~left_out
        is_usable = is_wanted.copy()
        # Per kind: its negatives ordered by normal, and where each normal's run starts and ends.
        self._rows: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        for name in kinds:
            rows = np.flatnonzero((policies == name) & is_in_play)
            rows = rows[np.argsort(owners[rows], kind="stable")]
            starts = np.searchsorted(owners[rows], np.arange(n_normals + 1))
            is_usable &= np.diff(starts) > 0
            self._rows.append(rows)
            self._starts.append(starts)
        self._usable = np.flatnonzero(is_usable)
        self.n_usable = len(self._usable)
        self.n_skipped = int(is_wanted.sum()) - self.n_usable
        if self.n_usable < 2:
            raise ModelError(
                f"too few normals with {' and '.join(kinds)} negatives to train on",
                expected="at least 2",
                got=f"{self.n_usable} of {int(is_wanted.sum())}",
                hint="build the set from more images",
            )
        self.is_with_replacement = self.n_usable < batch
        drawable = [rows[is_usable[owners[rows]]] + n_normals for rows in self._rows]
        self.rows = np.concatenate([self._usable, *drawable])

    def draw(self, update: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Choose the images of one update without reading them.

        Args:
            update: its number, from 0.

        Returns:
            normals (B,) int64, and the negatives (`counts[label]`,) int64 of each kind; number i of
            a kind belongs to normal i modulo B.

        Source: ours.
        """
        count = self.normals_per_batch
        if self.is_with_replacement:
            rng = np.random.default_rng([self.seed, _REPLACEMENT_STREAM, update])
            normals = self._usable[rng.integers(self.n_usable, size=count)]
        else:
            epoch, part = divmod(update, self.n_usable // count)
            rng = np.random.default_rng([self.seed, _EPOCH_STREAM, epoch])
            order = rng.permutation(self.n_usable)[part * count : (part + 1) * count]
            normals = self._usable[order]
        rng = np.random.default_rng([self.seed, _NEGATIVE_STREAM, update])
        negatives = []
        for rows, starts, n in zip(self._rows, self._starts, self.counts[1:], strict=True):
            owners = np.resize(normals, n)
            negatives.append(rows[rng.integers(starts[owners], starts[owners + 1])])
        return normals, tuple(negatives)

    def batch(
        self,
        update: int,
        *,
        with_images: bool = True,
        with_masks: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> TrainingBatch:
        """Read what one update needs.

        Args:
            update: its number, from 0.
            with_images: whether to read the images.
            with_masks: whether to read (or render) the masks of the negatives.
            part: (number, of how many): read one of so many equal parts only. See `part_places`;
                the number of parts divides all `counts`.

        Returns:
            The batch, in blocks: normals, then each kind in the order of `labels`; image i of every
            block belongs to normal i modulo B of the first. Of a part, what it has of them.

        Raises:
            SetError: a shard that cannot be read.

        Source: ours.
        """
        normals, negatives = self.draw(update)
        labels = np.repeat(np.arange(len(self.labels), dtype=np.int64), self.counts)
        n_set = int(self._set.n_normals)
        rows = np.concatenate([normals, *(kind + n_set for kind in negatives)])
        places = None
        if part[1] > 1:
            places = part_places(self.counts, *part)
            labels, rows = labels[places], rows[places]
        normals, drawn = rows[labels == 0], rows[labels > 0] - n_set
        images = [self._set.normal(int(i)).image for i in normals] if with_images else None
        masks = None
        if with_masks:
            read = [self._set[int(j)] for j in drawn]
            masks = np.zeros((len(rows), *read[0].mask.shape), dtype=bool)
            for target, negative in zip(masks[len(normals) :], read, strict=True):
                target[:] = negative.mask
            if images is not None:
                images += [negative.image for negative in read]
        elif images is not None:
            images += [self._set.negative_image(int(j)) for j in drawn]
        return TrainingBatch(
            labels=labels,
            rows=rows,
            images=None if images is None else np.stack(images),
            masks=masks,
            places=places,
            n_whole=None if places is None else sum(self.counts),
        )

    def image(self, row: int) -> np.ndarray:
        """Read one image, (H, W, 3) uint8 RGB, by its number in `TrainingBatch.rows`.

        Raises:
            SetError: a shard that cannot be read.

        Source: ours.
        """
        n_normals = int(self._set.n_normals)
        if row < n_normals:
            image: np.ndarray = self._set.normal(row).image
            return image
        return self._set.negative_image(row - n_normals)


def kinds_of(negative_set: NegativeSource) -> tuple[str, ...]:
    """The set's policies in the order of its recipe; what that does not name follows by name."""
    present = sorted(set(np.asarray(negative_set.negative_policy).tolist()))
    manifest = getattr(negative_set, "manifest", None)
    named = manifest.recipe.get("policies") if manifest is not None else None
    order = named if isinstance(named, (list, tuple)) else ()
    kinds = [kind for kind in order if kind in present]
    kinds += [kind for kind in present if kind not in kinds]
    if not kinds:
        raise ModelError(
            "the negative set has no negatives to train on",
            expected="at least one kind",
            got="no negatives at all",
            hint="build it again with --policies swap,scar",
        )
    return tuple(dict.fromkeys(kinds))


def _shares(shares: Sequence[float], kinds: tuple[str, ...]) -> tuple[float, ...]:
    if shares and len(shares) != len(kinds):
        raise ConfigError(
            "there is not one share for every kind of negatives",
            expected=f"{len(kinds)} ({', '.join(kinds)})",
            got=len(shares),
        )
    if not all(share > 0 for share in shares):
        raise ConfigError("a share is not above 0", got=", ".join(map(str, shares)))
    return tuple(float(share) for share in shares) or (1.0,) * len(kinds)


def _is_in_play(negative_set: NegativeSource, levels: tuple[int, ...]) -> np.ndarray:
    """(R,) bool: negatives of these levels, or of none; all where no levels are named."""
    if not levels:
        return np.ones(len(negative_set.negative_policy), dtype=bool)
    found = np.asarray(negative_set.negative_level)
    present = np.unique(found[found >= 0]).tolist()
    missing = [level for level in levels if level not in present]
    if missing:
        raise ConfigError(
            f"the negative set has no level {' and no level '.join(map(str, missing))}",
            expected=", ".join(map(str, present)) or "no --levels: it was made without saliency",
            got=", ".join(map(str, levels)),
            hint="pass other --levels, or build the set with these",
        )
    return np.isin(found, [-1, *levels])


def _need_every_kind(
    kinds: tuple[str, ...], policies: np.ndarray, in_play: np.ndarray, levels: tuple[int, ...]
) -> None:
    present = sorted(set(policies.tolist()))
    missing = [name for name in kinds if name not in present]
    if missing:
        raise ModelError(
            f"the negative set has no {' and no '.join(missing)} negatives to train on",
            expected=", ".join(kinds),
            got=", ".join(present) or "no negatives at all",
            hint=f"build it again with --policies {','.join(kinds)}",
        )
    without = [name for name in kinds if not (in_play == name).any()]
    if without:
        raise ModelError(
            f"the negative set has no {' and no '.join(without)} negatives of these levels",
            got=f"levels {', '.join(map(str, levels))}",
            hint="pass other --levels or --negatives",
        )
