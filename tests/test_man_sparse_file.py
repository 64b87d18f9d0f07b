"""A file in memory of which only what was written takes memory, against a plain one."""

import io
import os

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.sparse_file import SparseFile

PLACES = st.integers(0, 20_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, st.binary(min_size=1, max_size=9_000)),
        st.tuples(st.just("read"), PLACES, st.integers(1, 9_000)),
        st.tuples(st.just("truncate"), PLACES, st.none()),
    ),
    max_size=12,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_it_does_what_a_file_does(steps):
    sparse, plain = SparseFile(), io.BytesIO()
    for step, place, value in steps:
        if step == "truncate":
            # A plain one does not grow by it, which a file on disk does.
            if place > len(plain.getvalue()):
                plain.seek(place - 1)
                plain.write(b"\0")
            assert sparse.truncate(place) == plain.truncate(place) == place
            continue
        assert sparse.seek(place) == plain.seek(place) == place
        if step == "write":
            assert sparse.write(value) == plain.write(value)
        else:
            assert sparse.read(value) == plain.read(value)
        assert sparse.tell() == plain.tell()
    assert sparse.size == len(plain.getvalue()) == sparse.seek(0, os.SEEK_END)
    assert sparse.read_at(0, sparse.size) == plain.getvalue()


def test_it_takes_memory_for_what_was_written_alone():
    sparse = SparseFile()
    sparse.seek(1 << 40)
    sparse.write(b"end")
    assert sparse.size == (1 << 40) + 3 and len(sparse._pages) == 1


def test_hdf5_writes_to_it_and_reads_from_it():
    sparse = SparseFile()
    values = np.arange(100_000, dtype="<u4")
    with h5py.File(sparse, "w") as file:
        file.create_dataset("values", data=values, chunks=(1000,))
    with h5py.File(sparse, "r") as file:
        np.testing.assert_array_equal(file["values"][...], values)
    with h5py.File(io.BytesIO(sparse.read_at(0, sparse.size)), "r") as file:
        np.testing.assert_array_equal(file["values"][...], values)
