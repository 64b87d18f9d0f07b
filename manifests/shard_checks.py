"""Whether a shard holds what it says: every digest in it, taken again from the pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from manifests.digest import array_digest
from manifests.errors import CutswapError, DigestError, SetError
from manifests.shard_records import (
    CONTENT_TITLE,
    SALIENCY_TITLE,
    donors_of,
    lines_digest,
    negative_digest,
    negative_line,
    normal_line,
    painted_digest,
    saliency_line,
)
from manifests.terminal import counted

if TYPE_CHECKING:
    from manifests.shard import Shard


def shard_problems(shard: Shard, *, pixels: bool = True) -> Iterator[SetError]:
    """Everything that is not as recorded, as far as the shard can tell by itself.

    Args:
        shard: one whose structure has been accepted; SetError is raised where it has not.
        pixels: whether to read all pixels, check their digests and render every negative.
    """
    if pixels:
        yield from _pixel_problems(shard)
    yield from _digest_problems(shard)


def _pixel_problems(shard: Shard) -> Iterator[SetError]:
    index = shard.index
    damaged = set()
    for i, digest in enumerate(index.normal_digests):
        problem = _compared(shard, f"normal {i}", digest, lambda i=i: shard.normal_image(i))
        if problem is not None:
            damaged.add(i)
            yield problem
    for digest in index.donor_digests:
        problem = _compared(shard, "a donor", digest, lambda digest=digest: shard.donor(digest))
        if problem is not None:
            yield problem
    for j, digest in enumerate(index.negative_digests):
        if index.store == "pixels":
            problem = _compared(
                shard,
                f"negative {j} as stored",
                digest,
                lambda j=j: (shard.negative_image(j), shard.stored_mask(j)),
                painted_digest,
            )
            if problem is not None:
                yield problem
        if int(index.normal[j]) not in damaged:  # else it has been named, and cannot agree
            problem = _compared(
                shard,
                f"negative {j} as rendered",
                digest,
                lambda j=j: shard.rendered(j),
                negative_digest,
            )
            if problem is not None:
                yield problem


def _compared(
    shard: Shard,
    name: str,
    expected: str,
    read: Callable,
    digest_of: Callable[..., str] = array_digest,
) -> SetError | None:
    try:
        arrays = read()
    except SetError as error:
        return error
    got = digest_of(arrays) if isinstance(arrays, np.ndarray) else digest_of(*arrays)
    if got == expected:
        return None
    return DigestError(
        f"pixels of {name} are not the recorded ones", path=shard.path, expected=expected, got=got
    )


def _digest_problems(shard: Shard) -> Iterator[SetError]:
    index = shard.index
    needed: set[str] = set()
    for name, title, lines in (
        ("content_digest", CONTENT_TITLE, _content_lines(shard, needed)),
        ("saliency_digest", SALIENCY_TITLE, _saliency_lines(shard)),
    ):
        try:
            got = lines_digest(title, lines)
        except CutswapError as error:
            yield SetError(f"{name} cannot be taken: {error.what}", path=shard.path)
            continue
        if name == "content_digest":  # all edits have been read
            yield from _donor_problems(shard, needed)
        if got != getattr(index, name):
            yield DigestError(
                f"{name} is not that of the contents",
                path=shard.path,
                expected=getattr(index, name),
                got=got,
            )


def _donor_problems(shard: Shard, needed: Collection[str]) -> Iterator[SetError]:
    """Donors that nobody asks for, of whom no content digest knows, and those that are missing."""
    index = shard.index
    stored = set(index.donor_digests)
    for what, digests in (
        ("that no negative needs", stored.difference(needed)),
        ("too few", set(needed).difference(stored, index.normal_digests)),
    ):
        if digests:
            number = counted(len(digests), "donor image")
            yield SetError(f"has {number} {what}", path=shard.path, got=min(digests))


def _content_lines(shard: Shard, needed: set[str]) -> Iterator[bytes]:
    """The lines of the content digest; donors that edits need are added to a set meanwhile."""
    index = shard.index
    yield from map(
        normal_line, index.normal_digests, index.sources, index.file_digests, index.canvas_boxes
    )
    for j in range(shard.n_negatives):
        record = shard.record(j)
        needed |= donors_of(record.edits)
        yield negative_line(index.normal_digests[record.normal], record)


def _saliency_lines(shard: Shard) -> Iterator[bytes]:
    for i, digest in enumerate(shard.index.normal_digests):
        for level in sorted(shard.index.maps):
            yield saliency_line(digest, level, shard.saliency(i, level), shard.centres(i, level))
