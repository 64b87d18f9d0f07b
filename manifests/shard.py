"""One shard file: written whole and verified, read by row from any number of processes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from manifests.atomic import atomic_file, drop_from_memory
from manifests.digest import file_digest, pieces_digest
from manifests.edits import Edit, decode, render
from manifests.errors import CutswapError, DigestError, EditError, SetError
from manifests.shard_checks import shard_problems
from manifests.shard_entry import STORES, ShardEntry, is_digest, is_shard_name
from manifests.shard_file import ShardFile
from manifests.shard_image import shard_image
from manifests.shard_index import Rows, ShardIndex
from manifests.shard_layout import read_index
from manifests.shard_records import (
    NegativeRecord,
    NormalRecord,
    check_donor,
    check_donor_room,
    check_records,
    donors_of,
    negative_digest,
)

__all__ = [
    "NegativeRecord",
    "NormalRecord",
    "Shard",
    "negative_digest",
    "shard_entry",
    "write_shard",
]

_NOTHING: Mapping = MappingProxyType({})
_OfLevel = TypeVar("_OfLevel")


def write_shard(
    path: Path,
    normals: Sequence[NormalRecord],
    negatives: Sequence[NegativeRecord],
    *,
    donors: Mapping[str, np.ndarray] = _NOTHING,
    store: str,
    unit_digest: str,
    environment: Mapping[str, str] = _NOTHING,
    check_pixels: bool = True,
) -> ShardEntry:
    """Write a shard, read it back, check it, and only then give it its name.

    What is read back must be what was written, byte for byte, and have a valid structure.

    The same records give the same bytes (with the same zlib and HDF5 libraries).

    Args:
        path: the file; an existing one is replaced.
        normals: at least one, no two with the same digest.
        negatives: may be empty; pixels that are None are rendered.
        donors: donor images by digest; those the negatives need and that are not among the
            normals are stored, so they must have the normals' height and width.
        store: "pixels", or "anchors" to leave images and masks to be rendered on reading.
        unit_digest: digest of the unit of work, for a resumed build to know its own shards.
        environment: library versions and processor features.
        check_pixels: also compare all pixels and edits with their digests. A caller that has just
            rendered them can save that quarter of a build's time.

    Raises:
        SetError: records that are malformed or contradict each other.
        DigestError: a digest that is not that of its pixels.
        EditError: edits that cannot be rendered.
        OutputError: the file cannot be written. Nothing is left behind.
    """
    path = Path(path)
    if store not in STORES:
        raise SetError("store is unknown", expected=" or ".join(STORES), got=store)
    if not is_shard_name(path.name):
        raise SetError("shard name is malformed", path=path, expected="as shard-00000.h5")
    if not is_digest(unit_digest):
        raise SetError("unit_digest is not a digest", got=unit_digest)
    height, width = check_records(normals, negatives)
    known = {row.digest: row.image for row in normals}
    needed = set().union(*(donors_of(row.edits) for row in negatives)) - known.keys()
    if needed - donors.keys():
        raise SetError("donor image is missing", expected=sorted(needed - donors.keys())[0])
    check_donor_room(len(needed), height, width)
    stored = {digest: donors[digest] for digest in needed}
    for image in stored.values():
        check_donor(image, height, width)
    if store == "pixels":
        sources = {**stored, **known}
        negatives = [_with_pixels(row, normals, sources) for row in negatives]
    # HDF5 garbles what is raised while it writes to a file of ours, and Ctrl-C is only ever raised
    # in the main thread.
    with ThreadPoolExecutor(1) as thread:
        pieces = thread.submit(
            shard_image,
            normals,
            negatives,
            donors=stored,
            store=store,
            unit_digest=unit_digest,
            environment=environment,
        ).result()
    with atomic_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.writelines(pieces)
            file.flush()
            drop_from_memory(file.fileno())  # has the disk begin
            digest = pieces_digest(pieces)
            os.fsync(file.fileno())
        if not _reads_back(temporary, pieces):
            raise DigestError("is not what was written a moment ago", path=path)
        with Shard(temporary) as shard:
            # A mistake of the disk and one of the caller are both found before anybody can read
            # the shard.
            problem = next(shard.problems(), None) if check_pixels else None
            if problem is not None:
                raise type(problem)(
                    problem.what, path=path, expected=problem.expected, got=problem.got
                )
            return shard.entry(digest, name=path.name)


def _reads_back(path: Path, pieces: Sequence[memoryview]) -> bool:
    """Whether a file holds these bytes, in an eighth of the time of hashing them again."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != sum(map(len, pieces)):
            return False
        held: mmap.mmap | bytes
        try:
            # Mapped and not read: copying the bytes out costs twice as much as comparing them. Not
            # closed by hand: an interrupted comparison may still hold it.
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:  # some file systems map no files
            held = file.read()
        is_same = _is_equal(np.frombuffer(held, np.uint8), pieces)
        drop_from_memory(file.fileno())
        return is_same


def _is_equal(whole: np.ndarray, pieces: Sequence[memoryview]) -> bool:
    start = 0
    for piece in pieces:
        end = start + len(piece)
        if not np.array_equal(whole[start:end], np.frombuffer(piece, np.uint8)):
            return False
        start = end
    return True


def shard_entry(path: Path) -> ShardEntry:
    """The manifest's entry of a shard that is already there, as `write_shard` returned it.

    Raises:
        SetError: missing or malformed.
    """
    with Shard(path) as shard:
        return shard.entry(shard.file_sha256())


class Shard:
    """A shard file, opened at the first read, safe to pickle, to fork and to share by threads.

    Row numbers are those of the shard. Arrays are fresh, so they may be changed.

    Args:
        path: the file; a link is refused, because a set lies in its own folder.
        expected_sha256: digest to check the whole file against when it is first opened.
        refused: what a process of its own had against the file; it is then not parsed here.
    """

    def __init__(
        self, path: Path, *, expected_sha256: str | None = None, refused: SetError | None = None
    ) -> None:
        self._file = ShardFile(path, expected_sha256=expected_sha256)
        self._refused = refused
        self._index: ShardIndex | None = None

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        # The index is larger than the time it takes to read it again.
        return {**self.__dict__, "_index": None}

    def close(self) -> None:
        """Close the file. A later read opens it again."""
        self._file.close()

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._file.path

    @property
    def index(self) -> ShardIndex:
        """Everything but the pixels. Raises SetError where the file is not a valid shard."""
        if self._index is None:
            file_bytes = self._file.file_bytes  # opens it: another digest is named first
            if self._refused is not None:
                raise self._refused
            index = read_index(self.path, file_bytes, self._file.read_at)
            self._file.check_unchanged()
            self._index = index
        return self._index

    @property
    def n_normals(self) -> int:
        """Number of normals."""
        return len(self.index.normal_digests)

    @property
    def n_negatives(self) -> int:
        """Number of negatives."""
        return len(self.index.negative_digests)

    def file_sha256(self) -> str:
        """SHA-256 of the whole file. Raises SetError where it cannot be read."""
        try:
            return file_digest(self.path)
        except OSError as error:
            raise SetError(f"cannot be read ({error.strerror})", path=self.path) from error

    def entry(self, file_sha256: str, *, name: str | None = None) -> ShardEntry:
        """The manifest's entry of this shard, under its own name or another."""
        index = self.index
        return ShardEntry(
            name=self.path.name if name is None else name,
            file_sha256=file_sha256,
            file_bytes=self._file.file_bytes,
            normals=self.n_normals,
            negatives=self.n_negatives,
            content_digest=index.content_digest,
            saliency_digest=index.saliency_digest,
            environment=index.environment,
        )

    def normal_image(self, i: int) -> np.ndarray:
        """Normal `i`, (H, W, 3) uint8."""
        return self._row(self.index.images, i, "normals/image")

    def normal(self, i: int) -> NormalRecord:
        """Normal `i` with everything known of it, saliency included."""
        index = self.index
        return NormalRecord(
            image=self.normal_image(i),
            digest=index.normal_digests[i],
            source=index.sources[i],
            file_sha256=index.file_digests[i],
            canvas_box=tuple(index.canvas_boxes[i].tolist()),
            saliency={level: self.saliency(i, level) for level in index.maps},
            centres={level: self.centres(i, level) for level in index.maps},
        )

    def saliency(self, i: int, level: int) -> np.ndarray:
        """Saliency map of normal `i`, (h, w) uint8. Raises SetError for an unknown level."""
        rows = self._level(self.index.maps, level)
        return self._row(rows, i, f"saliency/level_{level}/map")

    def centres(self, i: int, level: int) -> np.ndarray:
        """Cluster centres of normal `i`, (K,) float32. Raises SetError as `saliency` does."""
        row = self._level(self.index.centres, level)[_checked(i, self.n_normals)]
        used: np.ndarray = row[~np.isnan(row)]
        return used.astype(np.float32)

    def edits(self, j: int) -> tuple[Edit, ...]:
        """Edits of negative `j`. Raises SetError where they are malformed."""
        index = self.index
        start, stop = index.edits_offset[_checked(j, self.n_negatives) :][:2]
        try:
            return decode(index.edits_data[start:stop], index.height, index.width)
        except EditError as error:
            raise self._at(error, f"edits of negative {j} are malformed") from None

    def negative_pixels(self, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 and mask (H, W) bool of negative `j`, read or rendered."""
        images = self.index.negative_images
        if images is None:
            return self.rendered(j)
        image = self._row(images, j, "negatives/image")
        return image, self.stored_mask(j) != 0

    def negative_image(self, j: int) -> np.ndarray:
        """Image of negative `j`, (H, W, 3) uint8."""
        images = self.index.negative_images
        if images is None:
            return self.rendered(j)[0]
        return self._row(images, j, "negatives/image")

    def negative_mask(self, j: int) -> np.ndarray:
        """Mask of negative `j`, (H, W) bool."""
        index = self.index
        if index.store == "anchors":
            return self.rendered(j)[1]
        mask: np.ndarray = self.stored_mask(j) != 0
        return mask

    def stored_mask(self, j: int) -> np.ndarray:
        """Mask of negative `j` as the file has it, (H, W) uint8. Raises SetError if it has none."""
        if self.index.negative_masks is None:
            raise SetError("stores no masks", path=self.path)
        return self._row(self.index.negative_masks, j, "negatives/mask")

    def negative(self, j: int) -> NegativeRecord:
        """Negative `j` with everything known of it."""
        image, mask = self.negative_pixels(j)
        return replace(self.record(j), image=image, mask=mask)

    def record(self, j: int) -> NegativeRecord:
        """Negative `j` without its pixels."""
        index = self.index
        edits = self.edits(j)
        return NegativeRecord(
            normal=int(index.normal[j]),
            policy=index.policies[j],
            level=int(index.level[j]),
            repeat=int(index.repeat[j]),
            anchors=index.anchors[j].astype(np.int32),
            edits=edits,
            fallback=int(index.fallback[j]),
            rejections=int(index.rejections[j]),
            digest=index.negative_digests[j],
        )

    def rendered(self, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask of negative `j` from its normal and its edits, whatever is stored.

        Raises:
            SetError: malformed edits, or a donor that is not in the shard.
        """
        edits = self.edits(j)
        donors = {digest: self.donor(digest) for digest in donors_of(edits)}
        normal = self.normal_image(int(self.index.normal[j]))
        try:
            return render(normal, edits, donors)
        except EditError as error:
            raise self._at(error, f"negative {j} cannot be rendered") from None

    def donor(self, digest: str) -> np.ndarray:
        """A donor image of this shard, (H, W, 3) uint8. Raises SetError where it is missing."""
        index = self.index
        if digest in index.normal_digests:
            return self.normal_image(index.normal_digests.index(digest))
        if index.donor_images is None or digest not in index.donor_digests:
            raise SetError("donor image is missing", path=self.path, expected=digest)
        row = index.donor_digests.index(digest)
        return self._row(index.donor_images, row, "donors/image")

    def problems(self, *, pixels: bool = True) -> Iterator[SetError]:
        """Everything that is not as recorded; without `pixels`, from the index alone."""
        return shard_problems(self, pixels=pixels)

    def _level(self, levels: dict[int, _OfLevel], level: int) -> _OfLevel:
        if level not in levels:
            raise SetError(
                f"has no saliency level {level}", path=self.path, expected=sorted(levels) or "none"
            )
        return levels[level]

    def _row(self, rows: Rows, i: int, name: str) -> np.ndarray:
        try:
            return rows.read(_checked(i, len(rows.offset)), self._file.read_at)
        except SetError as error:
            raise self._at(error, name) from None

    def _at(self, error: CutswapError, what: str) -> SetError:
        return SetError(
            f"{what}: {error.what}", path=self.path, expected=error.expected, got=error.got
        )


def _checked(index: int, count: int) -> int:
    if not 0 <= index < count:
        raise IndexError(f"row {index} of {count}")
    return index


def _with_pixels(
    row: NegativeRecord, normals: Sequence[NormalRecord], donors: Mapping[str, np.ndarray]
) -> NegativeRecord:
    if row.image is not None and row.mask is not None:
        return row
    image, mask = render(normals[row.normal].image, row.edits, donors)
    return replace(row, image=image, mask=mask)
