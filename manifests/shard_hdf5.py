"""HDF5 read without trust: nothing is followed out of the file, nothing unknown is run.

Every structure is compared with what is expected before a value is read. Only the places of the
data are taken from HDF5; the data are then read as plain bytes, within the size of the file.
"""

from __future__ import annotations

import math

import h5py
import numpy as np

from manifests.errors import SetError
from manifests.shard_index import ReadAt, Rows

_MAX_MEMBERS = 256
_IDS = {h5py.Dataset: h5py.h5d.DatasetID, h5py.Group: h5py.h5g.GroupID}


class StrictFile:
    """An open HDF5 file of which nothing is believed.

    All methods raise SetError where something is not as asked for.

    Args:
        file: opened for reading.
        file_bytes: its size.
        read_at: reads from the same file.
    """

    def __init__(self, file: h5py.File, file_bytes: int, read_at: ReadAt) -> None:
        self.file = file
        self.file_bytes = file_bytes
        self.read_at = read_at
        if file.userblock_size != 0:
            raise SetError("has a user block, which this format does not use")

    def _scalar(self, name: str) -> h5py.h5t.TypeID:
        attribute = self.file.attrs.get_id(name)
        if attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
            raise SetError(f"attribute {name} is not a single value")
        return attribute.get_type()

    def integer(self, name: str) -> int:
        """A root attribute that is one 64-bit integer."""
        if not self._scalar(name).equal(h5py.h5t.STD_I64LE):
            raise SetError(f"attribute {name} is not a 64-bit integer")
        return int(self.file.attrs[name])

    def text(self, name: str, max_bytes: int) -> str:
        """A root attribute that is one fixed-length ASCII string."""
        kind = self._scalar(name)
        is_fixed = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
        if not is_fixed or kind.get_size() > max_bytes:
            raise SetError(f"attribute {name} is not a fixed-length string")
        return bytes(self.file.attrs[name]).decode("ascii")

    def children(
        self, group: h5py.Group, required: set[str], optional: set[str], kind: type
    ) -> dict:
        """The members of a group by name: all of `required`, others only from `optional`."""
        if len(group) > _MAX_MEMBERS:
            raise SetError(f"{group.name} has too many members")
        names = set(group)
        missing, unknown = required - names, names - required - optional
        if missing:
            raise SetError(f"{group.name} lacks {', '.join(sorted(missing))}")
        if unknown:
            raise SetError(f"{group.name} has unknown members {ascii(sorted(unknown))[:120]}")
        children, links = {}, group.id.links
        for name in names:
            # Asked before the member is opened: opening a link is what reaches outside the file.
            if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise SetError(f"{group.name}: {name} is a link")
            member = h5py.h5o.open(group.id, name.encode())
            if not isinstance(member, _IDS[kind]):
                raise SetError(f"{group.name}: {name} is not a {kind.__name__.lower()}")
            child = kind(member)
            if h5py.h5a.get_num_attrs(child.id):
                raise SetError(f"{child.name} has attributes, which this format does not use")
            children[name] = child
        return children

    def _check_type(self, dataset: h5py.Dataset, dtype: str) -> None:
        expected = h5py.h5t.py_create(np.dtype(dtype))
        if not dataset.id.get_type().equal(expected):
            raise SetError(f"{dataset.name} has the wrong type", expected=dtype, got=dataset.dtype)

    def length(self, dataset: h5py.Dataset) -> int:
        """Length of a one-dimensional data set."""
        if dataset.shape is None or len(dataset.shape) != 1:
            raise SetError(f"{dataset.name} has the wrong shape", got=dataset.shape)
        return int(dataset.shape[0])

    def array(self, dataset: h5py.Dataset, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """A contiguous data set of exactly this type and shape."""
        self._check_type(dataset, dtype)
        return np.frombuffer(self._whole(dataset, shape), dtype=dtype).reshape(shape)

    def digests(self, dataset: h5py.Dataset, rows: int) -> list[str]:
        """A (rows, 32) uint8 data set as hex digests."""
        return [row.tobytes().hex() for row in self.array(dataset, "u1", (rows, 32))]

    def texts(self, dataset: h5py.Dataset, rows: int, encoding: str, limit: int) -> list[str]:
        """A data set of `rows` fixed-length strings of at most `limit` bytes."""
        kind = dataset.id.get_type()
        if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str():
            raise SetError(f"{dataset.name} is not of fixed-length strings", got=dataset.dtype)
        length = kind.get_size()
        if not 1 <= length <= limit:
            raise SetError(f"{dataset.name} has strings that are too long", got=length)
        data = self._whole(dataset, (rows,))
        cells = [bytes(data[i : i + length]) for i in range(0, rows * length, length)]
        return [cell.rstrip(b"\0").decode(encoding) for cell in cells]

    def _whole(self, dataset: h5py.Dataset, shape: tuple[int, ...]) -> bytearray:
        """A contiguous data set's bytes, which must all lie in this file."""
        self._check_storage(dataset, shape, (h5py.h5d.CONTIGUOUS,))
        size = math.prod(shape) * dataset.id.get_type().get_size()
        if size == 0:
            return bytearray()
        offset = dataset.id.get_offset()
        if offset is None or dataset.id.get_storage_size() != size:
            raise SetError(f"{dataset.name} is not stored in full")
        return self.read_at(offset, size)

    def _check_storage(
        self, dataset: h5py.Dataset, shape: tuple[int, ...], layouts: tuple[int, ...]
    ) -> h5py.h5p.PropDCID:
        if dataset.shape != shape:
            raise SetError(f"{dataset.name} has the wrong shape", expected=shape, got=dataset.shape)
        storage = dataset.id.get_create_plist()
        layout = storage.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            raise SetError(f"{dataset.name} is a virtual data set")
        if layout not in layouts:
            raise SetError(f"{dataset.name} is stored in a layout this format does not use")
        if layout == h5py.h5d.CONTIGUOUS and storage.get_external_count():
            raise SetError(f"{dataset.name} is stored in another file")
        return storage

    def rows(
        self, dataset: h5py.Dataset, row_shape: tuple[int, ...], rows: int | None = None
    ) -> Rows:
        """The places of the rows of a data set of one chunk per row."""
        self._check_type(dataset, "u1")
        shape = dataset.shape
        if not shape or (rows is not None and shape[0] != rows):
            raise SetError(f"{dataset.name} has the wrong shape", got=shape)
        if shape[0] == 0:
            self._check_storage(dataset, (0, *row_shape), (h5py.h5d.CONTIGUOUS,))
            return Rows(row_shape, np.zeros(0, np.int64), np.zeros(0, np.int64), False)
        count = shape[0]
        storage = self._check_storage(dataset, (count, *row_shape), (h5py.h5d.CHUNKED,))
        if storage.get_chunk() != (1, *row_shape):
            raise SetError(f"{dataset.name} is not chunked by row", got=storage.get_chunk())
        filters = [storage.get_filter(i)[0] for i in range(storage.get_nfilters())]
        if filters not in ([], [h5py.h5z.FILTER_DEFLATE]):
            raise SetError(
                f"{dataset.name} uses filters this format does not use",
                expected="none or deflate",
                got=filters,
            )
        # A row takes at least one byte, so this bounds the arrays below by the size of the file.
        if count > self.file_bytes or dataset.id.get_num_chunks() != count:
            raise SetError(f"{dataset.name} is not stored in full")
        row_bytes = math.prod(row_shape)
        most = row_bytes + row_bytes // 1000 + 64 if filters else row_bytes
        offset = np.full(count, -1, dtype=np.int64)
        stored = np.zeros(count, dtype=np.int64)

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            row = chunk.chunk_offset[0]
            if chunk.filter_mask or any(chunk.chunk_offset[1:]) or not 0 <= row < count:
                raise SetError(f"{dataset.name} has a malformed chunk")
            offset[row], stored[row] = chunk.byte_offset, chunk.size

        dataset.id.chunk_iter(note)
        ends = offset + stored
        if (
            (offset < 0).any()
            or (stored < (1 if filters else row_bytes)).any()
            or (stored > most).any()
            or (ends > self.file_bytes).any()
        ):
            raise SetError(f"{dataset.name} is not stored in full")
        return Rows(row_shape, offset, stored, bool(filters))
