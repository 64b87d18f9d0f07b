"""Edits: rendering against a literal reference, exactness, and parsing of hostile bytes."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.digest import array_digest
from manifests.edit_codec import MAX_BLENDS, MAX_EDITS, MAX_ENCODED_BYTES
from manifests.edits import (
    Blend,
    ColourShift,
    Copy,
    DonorTransform,
    canonical,
    decode,
    encode,
    footprint,
    render,
)
from manifests.errors import EditError
from reference import edits as literal

H, W = 21, 34
DONOR = "d" * 64


def picture(height=H, width=W, seed=0):
    """Every pixel differs from its neighbours, and R, G and B differ from each other."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width))
    return np.stack([3 * y + noise, 5 * x + noise, 200 - 2 * y - x + noise], -1).astype(np.uint8)


def random_copy(rng, *, angle=None, sticks_out=False):
    h, w = (int(v) for v in rng.integers(1, 14, 2))
    sy, sx = int(rng.integers(0, H - h + 1)), int(rng.integers(0, W - w + 1))
    if sticks_out:  # anywhere, as long as the centre lies inside
        dy = int(rng.integers(0, H)) - h // 2
        dx = int(rng.integers(0, W)) - w // 2
    else:
        dy, dx = int(rng.integers(0, H - h + 1)), int(rng.integers(0, W - w + 1))
    turn = int(rng.integers(-36000, 36001)) if angle is None else angle
    colour = None
    if rng.random() < 0.4:
        gain = rng.integers(0, 600, 3).tolist()
        colour = ColourShift(tuple(gain), tuple(rng.integers(-90, 91, 3).tolist()))
    feather = int(rng.choice([0, 1, 2, 3, 7, 127]))
    return Copy((sy, sx, h, w), (dy, dx, h, w), turn, colour, feather)


def random_blend(rng):
    lut = rng.integers(0, 256, (3, 256), dtype=np.uint8) if rng.random() < 0.5 else None
    transform = DonorTransform(
        int(rng.integers(0, 4)),
        bool(rng.random() < 0.5),
        bool(rng.random() < 0.5),
        tuple(rng.integers(-60, 60, 2).tolist()),
        lut,
    )
    mask = rng.random((H, W)) < rng.choice([0.02, 0.5])
    mask[int(rng.integers(H)), int(rng.integers(W))] = True
    return Blend(DONOR, transform, mask, int(rng.integers(0, 256)))


# Rendering


@pytest.mark.parametrize("seed", range(32))
def test_copies_equal_the_literal_reference(seed):
    rng = np.random.default_rng(seed)
    edits = [random_copy(rng, sticks_out=seed % 2 == 1) for _ in range(3)]
    expected_image, expected_mask = literal.render(picture(), edits, {})
    image, mask = render(picture(), edits)
    assert np.array_equal(image, expected_image)
    assert np.array_equal(mask, expected_mask)
    union = np.zeros((H, W), dtype=bool)
    for edit in edits:
        union |= footprint(edit, H, W)
    assert np.array_equal(mask, union)


@pytest.mark.parametrize("shape", [(H, W), (9, 40), (50, 13), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("band_px", [1, 25, 1 << 20])
def test_blends_equal_the_literal_reference_for_donors_of_any_size(
    shape, seed, band_px, monkeypatch
):
    monkeypatch.setattr("manifests.edits._BAND_PX", band_px)  # one row at a time, two, all
    rng = np.random.default_rng(seed)
    donors = {DONOR: picture(*shape, seed=9)}
    edit = random_blend(rng)
    edit = Blend(DONOR, edit.transform, np.ones((7, 11), dtype=bool), edit.alpha)
    sparse = np.zeros((7, 11), dtype=bool)
    sparse[2, 3:9] = sparse[5, 1] = True
    edits = [edit, Copy((0, 0, 3, 4), (3, 5, 3, 4)), Blend(DONOR, edit.transform, sparse, 200)]
    normal = picture(7, 11)
    expected_image, expected_mask = literal.render(normal, edits, donors)
    image, mask = render(normal, edits, donors)
    assert np.array_equal(image, expected_image)
    assert np.array_equal(mask, expected_mask)


def test_a_swap_by_hand():
    normal = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    swap = (Copy((0, 0, 1, 2), (1, 2, 1, 2)), Copy((1, 2, 1, 2), (0, 0, 1, 2)))
    image, mask = render(normal, swap)
    assert image[..., 0].tolist() == [[18, 21, 6, 9], [12, 15, 0, 3]]
    assert mask.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_a_quarter_turn_by_hand():
    """90 degrees counter-clockwise: the left end of a row comes to lie at the bottom."""
    normal = np.zeros((8, 8, 3), dtype=np.uint8)
    normal[0, :3, 0] = [1, 2, 3]
    image, mask = render(normal, [Copy((0, 0, 1, 3), (4, 3, 1, 3), 9000)])
    assert image[3:6, 4, 0].tolist() == [3, 2, 1]
    assert mask.sum() == 3 and mask[3:6, 4].all()


def test_a_blend_and_a_colour_by_hand():
    normal = np.full((1, 2, 3), 10, dtype=np.uint8)
    donor = np.full((1, 1, 3), 200, dtype=np.uint8)
    blend = Blend(DONOR, DonorTransform(), np.array([[True, False]]), 51)
    image, _ = render(normal, [blend], {DONOR: donor})
    assert image[0].tolist() == [[48, 48, 48], [10, 10, 10]]  # (51*200 + 204*10 + 127) // 255
    shift = ColourShift((256, 512, 128), (0, 0, -100))
    image, _ = render(normal, [Copy((0, 0, 1, 1), (0, 1, 1, 1), 0, shift)])
    assert image[0, 1].tolist() == [10, 20, 0]


def test_a_feathered_copy_by_hand():
    normal = np.full((7, 12, 3), 10, dtype=np.uint8)
    normal[:, :6] = 200
    copy = Copy((1, 0, 5, 6), (1, 6, 5, 6), feather_px=2)
    image, mask = render(normal, [copy])
    # Weights 85, 170, 255 from the edge: (85 * 200 + 170 * 10 + 127) // 255 and the reverse.
    assert image[3, 6:, 1].tolist() == [73, 137, 200, 200, 137, 73]
    assert image[1:6, 8, 2].tolist() == [73, 137, 200, 137, 73]
    assert image[1, 6:, 0].tolist() == [73] * 6 and image[2, 6:, 0].tolist()[:2] == [73, 137]
    assert mask.sum() == 30 and mask[1:6, 6:].all()
    # Lying on its side: the seam turns with the box.
    image, mask = render(normal, [Copy((1, 0, 3, 5), (2, 7, 3, 5), 9000, feather_px=1)])
    assert image[1:6, 9, 0].tolist() == [105, 200, 200, 200, 105]
    assert image[3, 8:11, 0].tolist() == [105, 200, 105]
    assert mask.sum() == 15


@pytest.mark.parametrize("angle", [0, 3100])
def test_a_seam_mixes_with_the_untouched_normal_and_changes_no_mask(angle):
    normal = picture()
    first = Copy((0, 0, 8, 9), (9, 12, 8, 9))
    soft, hard = (Copy((3, 20, 8, 9), (9, 12, 8, 9), angle, None, f) for f in (3, 0))
    over, _ = render(normal, [first, soft])
    alone, mask_alone = render(normal, [soft])
    inside = footprint(soft, H, W)
    assert np.array_equal(over[inside], alone[inside])
    assert np.array_equal(mask_alone, render(normal, [hard])[1])
    assert np.array_equal(inside, footprint(hard, H, W)) and np.array_equal(inside, mask_alone)
    assert (alone != render(normal, [hard])[0]).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 127), st.integers(-9000, 9000))
def test_a_seam_lies_between_the_two_and_leaves_the_middle_whole(h, w, feather, angle):
    normal = picture()
    boxes = (2, 3, h, w), (6, 18, h, w)
    soft, mask = render(normal, [Copy(*boxes, angle, None, feather)])
    hard, _ = render(normal, [Copy(*boxes, angle)])
    assert (soft >= np.minimum(normal, hard)).all() and (soft <= np.maximum(normal, hard)).all()
    assert np.array_equal(soft[~mask], normal[~mask])
    middle = np.s_[6 + h // 2, 18 + w // 2]
    if feather <= (min(h, w) - 1) // 2 and h % 2 and w % 2:
        assert np.array_equal(soft[middle], hard[middle])


@pytest.mark.parametrize("angle", [0, 36000, -36000])
def test_no_turn_is_an_exact_copy_of_the_box(angle):
    for seed in range(20):
        edit = random_copy(np.random.default_rng(seed), angle=angle)
        edit = Copy(edit.src, edit.dst, angle)
        normal = picture()
        image, mask = render(normal, [edit])
        (sy, sx, h, w), (dy, dx, _, _) = edit.src, edit.dst
        assert np.array_equal(image[dy : dy + h, dx : dx + w], normal[sy : sy + h, sx : sx + w])
        assert mask.sum() == h * w


def test_half_a_turn_turns_the_box_exactly():
    normal = picture()
    image, _ = render(normal, [Copy((2, 3, 6, 9), (10, 20, 6, 9), 18000)])
    assert np.array_equal(image[10:16, 20:29], normal[2:8, 3:12][::-1, ::-1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_disjoint_swap_conserves_all_pixels(data):
    h, w = data.draw(st.integers(1, H // 2)), data.draw(st.integers(1, W))
    top, below = data.draw(st.integers(0, H // 2 - h)), data.draw(st.integers(H // 2, H - h))
    left, other = data.draw(st.integers(0, W - w)), data.draw(st.integers(0, W - w))
    first, second = (top, left, h, w), (below, other, h, w)
    normal = picture()
    image, mask = render(normal, [Copy(first, second), Copy(second, first)])
    assert mask.sum() == 2 * h * w
    pixels, expected = (sorted(map(tuple, a.reshape(-1, 3).tolist())) for a in (image, normal))
    assert pixels == expected
    assert np.array_equal(image[~mask], normal[~mask])


@pytest.mark.parametrize("seed", range(10))
def test_nothing_changes_outside_the_mask_and_no_input_is_written(seed):
    rng = np.random.default_rng(seed)
    normal, donor = picture(), picture(17, 29, seed=5)
    before, donor_before = normal.copy(), donor.copy()
    normal.flags.writeable = donor.flags.writeable = False
    edits = [random_copy(rng), random_blend(rng), random_copy(rng, sticks_out=True)]
    image, mask = render(normal, edits, {DONOR: donor})
    assert np.array_equal(image[~mask], before[~mask])
    assert np.array_equal(normal, before) and np.array_equal(donor, donor_before)
    assert image.flags.writeable and not np.shares_memory(image, normal)
    again, _ = render(normal, edits, {DONOR: donor})
    assert array_digest(image) == array_digest(again)


def test_a_view_of_a_larger_image_renders_the_same():
    big = picture(60, 90)
    edits = [Copy((1, 2, 6, 9), (10, 20, 6, 9), 3333), Copy((3, 3, 4, 4), (0, 0, 4, 4))]
    view = big[::2, ::2][:H, :W]
    assert np.array_equal(render(view, edits)[0], render(view.copy(), edits)[0])


def test_every_edit_reads_the_untouched_normal_and_the_last_one_counts():
    normal = picture()
    first, second = Copy((0, 0, 4, 4), (8, 8, 4, 4)), Copy((8, 8, 4, 4), (8, 10, 4, 4))
    image, _ = render(normal, [first, second])
    assert np.array_equal(image[8:12, 10:14], normal[8:12, 8:12])
    assert np.array_equal(image[8:12, 8:10], normal[0:4, 0:2])


def test_a_turned_box_inside_the_image_always_leaves_a_pixel():
    """`check_fits` relies on it for speed."""
    for h in range(1, 6):
        for w in range(1, 6):
            for angle in range(0, 36000, 700):
                assert footprint(Copy((0, 0, h, w), (5, 5, h, w), angle), 14, 14).any()


# What does not fit


@pytest.mark.parametrize(
    "make",
    [
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 4)),
        lambda: Copy((0, 0, 0, 3), (0, 0, 0, 3)),
        lambda: Copy((-1, 0, 3, 3), (0, 0, 3, 3)),
        lambda: Copy((0, 0, 3), (0, 0, 3)),
        lambda: Copy((0, 0, 3.0, 3), (0, 0, 3.0, 3)),
        lambda: Copy((0, 0, True, 3), (0, 0, True, 3)),
        lambda: Copy((0, 0, 1 << 17, 3), (0, 0, 1 << 17, 3)),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), 36001),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), 0.5),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), 0, "red"),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), feather_px=-1),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), feather_px=128),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), feather_px=1.5),
        lambda: Copy((0, 0, 3, 3), (0, 0, 3, 3), feather_px=True),
        lambda: ColourShift((1, 2), (0, 0, 0)),
        lambda: ColourShift((1, 2, -3), (0, 0, 0)),
        lambda: ColourShift((1, 2, 3), (0, 0, 256)),
        lambda: DonorTransform(4),
        lambda: DonorTransform(0, 1),
        lambda: DonorTransform(lut=np.zeros((3, 255), np.uint8)),
        lambda: DonorTransform(lut=np.zeros((3, 256), np.int64)),
        lambda: Blend("x" * 64, DonorTransform(), np.ones((H, W), bool), 1),
        lambda: Blend(DONOR, None, np.ones((H, W), bool), 1),
        lambda: Blend(DONOR, DonorTransform(), np.ones((H, W), np.uint8), 1),
        lambda: Blend(DONOR, DonorTransform(), np.zeros((H, W), bool), 1),
        lambda: Blend(DONOR, DonorTransform(), np.ones((H, W), bool), 256),
    ],
)
def test_malformed_edits_cannot_be_made(make):
    with pytest.raises(EditError):
        make()


@pytest.mark.parametrize(
    "edit",
    [
        Copy((H - 2, 0, 3, 3), (0, 0, 3, 3)),
        Copy((0, W - 2, 3, 3), (0, 0, 3, 3)),
        Copy((0, 0, 3, 3), (H, 0, 3, 3)),
        Copy((0, 0, 3, 3), (0, -3, 3, 3)),
        Copy((0, 0, 3, 3), (-9, -9, 3, 3), 4500),
        Blend(DONOR, DonorTransform(), np.ones((W, H), bool), 1),
        Blend("e" * 64, DonorTransform(), np.ones((H, W), bool), 1),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit):
    with pytest.raises(EditError):
        render(picture(), [edit], {DONOR: picture()})


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), None]
)
def test_only_rgb_images_are_rendered(image):
    with pytest.raises(EditError, match="normal is not an image"):
        render(image, [])


def test_an_edit_keeps_its_own_copy_of_an_array():
    mask = np.ones((H, W), dtype=bool)
    edit = Blend(DONOR, DonorTransform(), mask, 9)
    mask[:] = False
    assert edit.mask.all()
    with pytest.raises(ValueError):
        edit.mask[0, 0] = False


# Bytes


@pytest.mark.parametrize("seed", range(12))
def test_encoding_is_undone_by_decoding(seed):
    rng = np.random.default_rng(seed)
    edits = (random_copy(rng), random_blend(rng), random_copy(rng, angle=0))
    data = encode(edits)
    again = decode(data, H, W)
    assert again == edits and hash(again) == hash(edits)
    assert encode(again) == data and canonical(again) == canonical(edits)
    assert again != (edits[0], random_blend(rng), edits[2])


def test_the_encoded_form_of_a_copy():
    shift = ColourShift((256, 256, 256), (1, 2, 3))
    assert encode([Copy((0, 1, 2, 3), (4, 5, 2, 3), -450, shift)]) == (
        b'[{"angle_cdeg":-450,"colour":{"gain_q8":[256,256,256],"offset":[1,2,3]},'
        b'"dst":[4,5,2,3],"kind":"copy","src":[0,1,2,3]}]'
    )


def test_a_feather_is_written_only_where_there_is_one():
    boxes = (0, 1, 9, 9), (4, 5, 9, 9)
    plain = b'[{"angle_cdeg":0,"colour":null,"dst":[4,5,9,9],"kind":"copy","src":[0,1,9,9]}]'
    soft = plain.replace(b'"kind"', b'"feather_px":3,"kind"')
    assert encode([Copy(*boxes)]) == canonical([Copy(*boxes, feather_px=0)]) == plain
    assert encode([Copy(*boxes, feather_px=np.uint8(3))]) == soft
    assert canonical([Copy(*boxes, feather_px=3)]) == soft
    assert decode(soft, H, W) == (Copy(*boxes, feather_px=3),) != decode(plain, H, W)


def test_the_canonical_form_does_not_depend_on_the_compression():
    edits = [random_blend(np.random.default_rng(1))]
    plain = json.loads(encode(edits))
    packed = zlib.decompress(base64.b64decode(plain[0]["mask"]["bits"]))
    plain[0]["mask"]["bits"] = base64.b64encode(zlib.compress(packed, 0)).decode()
    other = dumped(plain)
    assert other != encode(edits)
    assert canonical(decode(other, H, W)) == canonical(edits)
    changed = Blend(DONOR, edits[0].transform, ~edits[0].mask, edits[0].alpha)
    assert canonical([changed]) != canonical(edits)


def test_numpy_integers_encode_like_integers():
    box = tuple(np.array([0, 1, 2, 3], dtype=np.int32))
    assert encode([Copy(box, box, np.int64(5))]) == encode([Copy((0, 1, 2, 3), (0, 1, 2, 3), 5)])


def dumped(plain):
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def copy_plain(**changes):
    return json.loads(encode([Copy((0, 0, 2, 2), (3, 3, 2, 2))]))[0] | changes


def blend_plain(**changes):
    blend = Blend(DONOR, DonorTransform(), np.ones((H, W), bool), 100)
    return json.loads(encode([blend]))[0] | changes


def mask_plain(data, shape=(H, W)):
    return {"shape": list(shape), "bits": base64.b64encode(data).decode()}


PACKED = b"\xff" * ((H * W + 7) // 8)
HOSTILE = {
    "empty": b"",
    "not JSON": b"edits",
    "not ASCII": '["é"]'.encode(),
    "not a list": b"{}",
    "no edits": b"[]",
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": b"[NaN]",
    "infinity": b"[1e999]",
    "huge integer": b"[" + b"9" * 5000 + b"]",
    "large integer": dumped([copy_plain(angle_cdeg=10**400)]),
    "spaces": encode([Copy((0, 0, 2, 2), (3, 3, 2, 2))]) + b" ",
    "repeated key": encode([Copy((0, 0, 2, 2), (3, 3, 2, 2))]).replace(
        b'"angle_cdeg":0', b'"angle_cdeg":9,"angle_cdeg":0'
    ),
    "too large": b'["' + b"a" * MAX_ENCODED_BYTES + b'"]',
    "too many": dumped([copy_plain()] * (MAX_EDITS + 1)),
    "too many blends": dumped([blend_plain()] * (MAX_BLENDS + 1)),
    "number": b"[1]",
    "kind": dumped([copy_plain(kind="paste")]),
    "kind of wrong type": dumped([copy_plain(kind=["copy"])]),
    "missing field": dumped([{"kind": "copy"}]),
    "extra field": dumped([copy_plain(extra=1)]),
    "float box": dumped([copy_plain(src=[0, 0, 2.0, 2])]),
    "boolean box": dumped([copy_plain(src=[False, 0, 2, 2])]),
    "string box": dumped([copy_plain(src="0022")]),
    "box of five": dumped([copy_plain(src=[0, 0, 2, 2, 2])]),
    "object box": dumped([copy_plain(src={"0": 1, "1": 1, "2": 1, "3": 1})]),
    "source outside": dumped([copy_plain(src=[H - 1, 0, 2, 2])]),
    "target outside": dumped([copy_plain(dst=[H, 0, 2, 2])]),
    "huge box": dumped([copy_plain(src=[0, 0, 10**9, 2], dst=[0, 0, 10**9, 2])]),
    "null angle": dumped([copy_plain(angle_cdeg=None)]),
    "boolean angle": dumped([copy_plain(angle_cdeg=True)]),
    "feather of 0": dumped([copy_plain(feather_px=0)]),
    "null feather": dumped([copy_plain(feather_px=None)]),
    "boolean feather": dumped([copy_plain(feather_px=False)]),
    "float feather": dumped([copy_plain(feather_px=2.0)]),
    "wide feather": dumped([copy_plain(feather_px=128)]),
    "negative feather": dumped([copy_plain(feather_px=-1)]),
    "feather of a blend": dumped([blend_plain(feather_px=1)]),
    "colour list": dumped([copy_plain(colour=[1, 2, 3])]),
    "colour field": dumped([copy_plain(colour={"gain_q8": [1, 1, 1], "shift": [0, 0, 0]})]),
    "donor path": dumped([blend_plain(donor="../../etc/passwd")]),
    "donor null": dumped([blend_plain(donor=None)]),
    "alpha": dumped([blend_plain(alpha=-1)]),
    "transform": dumped([blend_plain(transform=None)]),
    "flag number": dumped([blend_plain(transform=blend_plain()["transform"] | {"flip_y": 1})]),
    "lut size": dumped([blend_plain(transform=blend_plain()["transform"] | {"lut": "AAAA"})]),
    "lut number": dumped([blend_plain(transform=blend_plain()["transform"] | {"lut": 5})]),
    "mask null": dumped([blend_plain(mask=None)]),
    "mask bomb": dumped([blend_plain(mask=mask_plain(zlib.compress(bytes(1 << 26), 9)))]),
    "mask claims a size": dumped(
        [blend_plain(mask=mask_plain(zlib.compress(PACKED), (1 << 20, 1 << 20)))]
    ),
    "mask float size": dumped([blend_plain(mask=mask_plain(zlib.compress(PACKED), (21.0, W)))]),
    "mask short": dumped([blend_plain(mask=mask_plain(zlib.compress(PACKED[:-1])))]),
    "mask cut": dumped([blend_plain(mask=mask_plain(zlib.compress(PACKED)[:-3]))]),
    "mask tail": dumped([blend_plain(mask=mask_plain(zlib.compress(PACKED) + b"tail"))]),
    "mask bits behind the end": dumped([blend_plain(mask=mask_plain(zlib.compress(PACKED)))]),
    "mask empty": dumped([blend_plain(mask=mask_plain(zlib.compress(bytes(len(PACKED)))))]),
    "mask not zlib": dumped([blend_plain(mask=mask_plain(b"nonsense"))]),
    "mask not base64": dumped([blend_plain(mask={"shape": [H, W], "bits": "$$$$"})]),
    "mask not ASCII": dumped([blend_plain(mask={"shape": [H, W], "bits": "é"})]),
    "mask stray bits": dumped([blend_plain(mask={"shape": [H, W], "bits": "QR=="})]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_in_one_line(name):
    with pytest.raises(EditError) as caught:
        decode(HOSTILE[name], H, W)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_the_hostile_examples_start_from_good_ones():
    assert decode(dumped([copy_plain()]), H, W) and decode(dumped([blend_plain()]), H, W)
    assert decode(dumped([copy_plain(feather_px=2)]), H, W)


def test_what_could_not_be_read_is_not_written():
    copy = Copy((0, 0, 2, 2), (3, 3, 2, 2))
    for edits in ([], [copy] * (MAX_EDITS + 1), [random_blend(np.random.default_rng(0))] * 9):
        with pytest.raises(EditError):
            encode(edits)
    with pytest.raises(EditError, match="unknown kind"):
        encode(["copy"])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 10_000), st.integers(1, 12))
def test_damaged_encodings_raise_nothing_but_edit_errors(junk, place, length):
    data = encode((Copy((0, 0, 2, 2), (3, 3, 2, 2)), random_blend(np.random.default_rng(3))))
    place %= len(data)
    for damaged in (data[:place] + junk + data[place + length :], data[:place], junk):
        try:
            edits = decode(damaged, H, W)
        except EditError:
            continue
        assert decode(encode(edits), H, W) == edits
