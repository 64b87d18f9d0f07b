"""Digests of arrays, in one go and from what is known of their beginning."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.digest import PrefixDigest, array_digest, pieces_digest
from manifests.edits import Copy, render
from manifests.shard_records import edited_digest, negative_digest


def literal(array):
    line = f"{array.dtype.name} {' '.join(map(str, array.shape))}\n".encode()
    return hashlib.sha256(line + array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", ">f4", ">u2", "int64"])
@pytest.mark.parametrize("shape", [(1,), (16,), (17, 3), (50, 4, 3), (64, 5)])
def test_from_any_row_on_it_is_the_digest_of_the_whole(dtype, shape):
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2, shape).astype(dtype)
    prefix = PrefixDigest(known)
    assert prefix.digest == array_digest(known) == literal(known)
    for same in range(shape[0] + 1):
        other = known.copy()
        other[same:] = 1 - other[same:].astype(int)
        assert prefix.of(other, same) == array_digest(other) == literal(other)
        assert prefix.of(np.asfortranarray(other), same) == literal(other)


def test_another_kind_of_array_is_refused():
    prefix = PrefixDigest(np.zeros((4, 4), np.uint8))
    for other in (np.zeros((4, 5), np.uint8), np.zeros((4, 4), np.int8), np.zeros(16, np.uint8)):
        with pytest.raises(ValueError, match="expected"):
            prefix.of(other, 0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_was_rendered_has_the_digest_of_its_image_and_mask(data):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    normal = np.random.default_rng(data.draw(st.integers(0, 9))).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    y, x = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    edit = Copy((0, 0, h, w), (y, x, h, w), data.draw(st.integers(-36_000, 36_000)))
    image, mask = render(normal, [edit])
    assert edited_digest(image, mask, PrefixDigest(normal)) == negative_digest(image, mask)


def test_an_empty_mask_is_that_of_the_normal():
    normal = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    mask = np.zeros((40, 30), bool)
    assert edited_digest(normal, mask, PrefixDigest(normal)) == negative_digest(normal, mask)


def test_pieces_have_the_digest_of_the_whole():
    pieces = [b"a", memoryview(b""), bytearray(b"bc")]
    assert pieces_digest(pieces) == hashlib.sha256(b"abc").hexdigest()
