"""The preview's contact sheet of real sets: both stores, with and without saliency."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pytest

from generator.preview import preview_sheet
from generator.preview_tiles import ANCHOR_COLOURS, SOURCE_COLOUR, anchor_tile, donor_tile
from generator.saliency_views import combined_saliency
from manifests.annotate import GREEN, SKY, VERMILION, overlay
from manifests.digest import array_digest
from manifests.edits import Blend, Copy, DonorTransform, render
from manifests.errors import SetError
from manifests.geometry import Geometry
from manifests.negative_set import NegativeSet
from manifests.schema import (
    SCHEMA_VERSION,
    Manifest,
    origin,
    set_digest_of,
    shard_name,
    tally,
    write_manifest,
)
from manifests.shard import NegativeRecord, NormalRecord, negative_digest, write_shard

HEIGHT, WIDTH = 48, 72
EMPTY = (245, 245, 245)
TINTED = (135, 157, 139)  # 0.55 of (50, 100, 200) and 0.45 of the cluster's yellow
CLUSTERS = {"k": 2, "choice": "max"}
UNUSED = np.full((2, 4), -1, dtype=np.int32)


def _gradient(shift: int = 0) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([40 + x, 90 + y + shift, 200 - x], axis=2).astype(np.uint8)


def _flat() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (50, 100, 200), np.uint8)


def _square() -> np.ndarray:
    saliency = np.zeros((12, 18), dtype=np.uint8)
    saliency[3:9, 6:12] = 255
    return saliency


def _normal(image, saliency, *, box=(0, 0, HEIGHT, WIDTH), name="001") -> NormalRecord:
    digest = array_digest(image)
    centres = {level: np.zeros(2, np.float32) for level in saliency}
    return NormalRecord(image, digest, f"train/good/{name}.png", digest, box, saliency, centres)


def _negative(image, policy, level, *, normal=1, repeat=0, anchors=None, fallback=0):
    """Two boxes swapped in `image`, which is that of normal `normal`."""
    first, second = (4, 6, 10, 20), (30, 40, 10, 20)
    edits = (Copy(first, second), Copy(second, first))
    pixels, mask = render(image, edits, {})
    return NegativeRecord(
        normal=normal,
        policy=policy,
        level=level,
        repeat=repeat,
        anchors=np.array([first, second], dtype=np.int32) if anchors is None else anchors,
        edits=edits,
        fallback=fallback,
        rejections=0,
        digest=negative_digest(pixels, mask),
        image=pixels,
        mask=mask,
    )


def _write(
    folder: Path,
    image,
    negatives,
    saliency,
    *,
    store="pixels",
    clusters=CLUSTERS,
    regions=None,
    box=None,
):
    """A set of two normals; number 1 is `image`. Opened."""
    folder.mkdir()
    other = _gradient(shift=7)
    box = box or (0, 0, HEIGHT, WIDTH)
    normals = [_normal(other, saliency, name="000"), _normal(image, saliency, box=box)]
    negatives = [_negative(other, "swap", 4, normal=0), *negatives]
    entry = write_shard(
        folder / shard_name(0), normals, negatives, store=store, unit_digest="00" * 32
    )
    recipe = {"geometry": Geometry(HEIGHT, WIDTH).to_json(), "store": store}
    if clusters is not None:
        recipe["clusters"] = clusters
    if regions is not None:
        recipe["regions"] = regions
    counts, fallbacks = tally(2, [(row.policy, row.level, row.fallback) for row in negatives])
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        category="part",
        format="folder",
        recipe=recipe,
        licence="",
        attribution="",
        split_rule="all",
        training_files=tuple(sorted(row.file_sha256 for row in normals)),
        duplicates=0,
        skipped=(),
        counts=counts,
        fallbacks=fallbacks,
        shards=(entry,),
        content_digest=set_digest_of([entry.content_digest]),
        saliency_digest=set_digest_of([entry.saliency_digest]),
        versions={},
        saliency="stored" if normals[0].saliency else "unused",
        origin=origin("build"),
    )
    write_manifest(folder, manifest)
    return NegativeSet.open(folder)


def _usual(folder: Path, *, saliency=None, **options) -> NegativeSet:
    rows = [_negative(_gradient(), name, level) for level in (4, 9) for name in ("scar", "swap")]
    maps = dict.fromkeys((4, 9), _square()) if saliency is None else saliency
    return _write(folder, _gradient(), rows, maps, **options)


def _count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def _tinted(picture: np.ndarray) -> int:
    return int((np.abs(picture.astype(int) - TINTED).max(axis=2) <= 1).sum())


def _times(picture: np.ndarray, tile: np.ndarray) -> int:
    """How often a tile appears in the picture, pixel by pixel."""
    h, w = tile.shape[:2]
    corners = np.argwhere((picture[: 1 - h, : 1 - w] == tile[0, 0]).all(axis=2))
    return sum((picture[y : y + h, x : x + w] == tile).all() for y, x in corners)


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_sheet_holds_normal_negatives_masks_and_differences(tmp_path, store):
    with _usual(tmp_path / "part", store=store) as negative_set:
        picture = preview_sheet(negative_set, 1, tile_px=WIDTH, gain=3)
        row = negative_set[1]
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert row.normal == 1
    shown = np.clip(3 * np.abs(row.image.astype(int) - _gradient()), 0, 255).astype(np.uint8)
    white = np.repeat(row.mask[..., None] * np.uint8(255), 3, axis=2)
    assert _times(picture, _gradient()) == 1
    assert _times(picture, row.image) == _times(picture, white) == _times(picture, shown) == 4
    swap, scar = (
        np.argwhere((picture == VERMILION).all(axis=2)),
        np.argwhere((picture == SKY).all(axis=2)),
    )
    assert len(swap) == len(scar) > 100
    assert swap[:, 1].max() < scar[:, 1].min()  # in the build's order, not the alphabet's


def test_both_stores_look_the_same(tmp_path):
    pictures = []
    for store in ("pixels", "anchors"):
        with _usual(tmp_path / store, store=store) as negative_set:
            pictures.append(preview_sheet(negative_set, 1, tile_px=40))
    np.testing.assert_array_equal(*pictures)


def test_cluster_region_follows_the_recipe(tmp_path):
    area = {}
    for choice in ("max", "min", "random"):
        rows = [_negative(_flat(), "swap", 4, anchors=UNUSED)]
        options = {"clusters": {"k": 2, "choice": choice}}
        with _write(tmp_path / choice, _flat(), rows, {4: _square()}, **options) as negative_set:
            picture = preview_sheet(negative_set, 1, tile_px=WIDTH)
        area[choice] = _tinted(picture)
        assert _count(picture, VERMILION) == 0  # no anchors, none drawn
    # Bilinear enlarging moves the edge of the 24x24 px square by half a saliency cell at most.
    assert 20 * 20 <= area["max"] <= 28 * 28
    assert area["max"] + area["min"] == HEIGHT * WIDTH
    assert area["random"] == 0


def test_padding_is_no_part_of_a_cluster(tmp_path):
    rows = [_negative(_flat(), "swap", 4, anchors=UNUSED)]
    options = {"clusters": {"k": 1, "choice": "max"}, "box": (0, 0, HEIGHT, 30)}
    maps = {4: np.zeros((6, 9), np.uint8)}
    with _write(tmp_path / "part", _flat(), rows, maps, **options) as negative_set:
        assert _tinted(preview_sheet(negative_set, 1, tile_px=WIDTH)) == HEIGHT * 30


def test_anchors_are_drawn_where_they_are(tmp_path):
    rows = [_negative(_flat(), "swap", 4)]
    with _write(tmp_path / "part", _flat(), rows, {4: _square()}) as negative_set:
        picture = preview_sheet(negative_set, 1, tile_px=2 * WIDTH)
    spots = np.argwhere((picture == VERMILION).all(axis=2))
    # From (4, 6) to (40, 60) at twice the size, edges included.
    assert (np.ptp(spots, axis=0) + 1).tolist() == [2 * 36, 2 * 54]


def test_set_without_saliency_says_so(tmp_path):
    with _usual(tmp_path / "with") as stored, _usual(tmp_path / "without", saliency={}) as bare:
        assert _count(preview_sheet(stored, 1, tile_px=WIDTH), EMPTY) < 100  # of letters
        without = preview_sheet(bare, 1, tile_px=WIDTH)
        assert _count(without, EMPTY) > 2 * 40 * 60
        assert _times(without, bare[1].image) == 4


def test_other_policies_levels_and_missing_negatives(tmp_path):
    rows = [
        _negative(_gradient(), "cutpaste", -1),
        _negative(_gradient(), "perlin", 9, fallback=3),
        _negative(_gradient(), "perlin", 9, repeat=1),
    ]
    maps = dict.fromkeys((4, 9), _square())
    options = {"clusters": None}
    with _write(tmp_path / "part", _gradient(), rows, maps, **options) as negative_set:
        picture = preview_sheet(negative_set, 1, tile_px=WIDTH)
        other = preview_sheet(negative_set, 0, tile_px=WIDTH)
        # In the heading and as the first picture of cutpaste's one row.
        assert _times(picture, _gradient()) == 2
        assert _times(picture, negative_set[1].image) == 3
        assert _times(other, negative_set[0].image) == 1
    # Swap is missing at level 4 in the first repeat, and its four tiles say so; the other blank
    # places are of levels that a policy has no negatives of.
    tile = (WIDTH + 12 - 2) * (36 - 2)
    assert 0.7 * 4 * tile < _count(picture, EMPTY)


def test_six_policies_stand_in_three_blocks_of_equal_columns(tmp_path):
    free = ("random-swap", "random-scar", "cutpaste", "cutpaste-scar")
    rows = [_negative(_gradient(), name, level) for level in (4, 9) for name in ("scar", "swap")]
    rows += [_negative(_gradient(), name, -1, repeat=n) for n in (0, 1) for name in free]
    maps = dict.fromkeys((4, 9), _square())
    with _write(tmp_path / "part", _gradient(), rows, maps) as negative_set:
        picture = preview_sheet(negative_set, 1, tile_px=WIDTH)
        image = negative_set[1].image
    with _usual(tmp_path / "two") as negative_set:
        two = preview_sheet(negative_set, 1, tile_px=WIDTH)
    assert picture.shape[1] == two.shape[1]
    assert 2 * two.shape[0] < picture.shape[0] < 3 * two.shape[0]
    assert _times(picture, image) == 2 * 6
    # The heading, and one in every row without saliency.
    assert _times(picture, _gradient()) == 1 + 2 * 2
    starts = [np.argwhere((picture == colour).all(axis=2)).min(axis=0) for colour in ANCHOR_COLOURS]
    assert starts[0][1] == starts[2][1] == starts[4][1] < starts[1][1]
    assert starts[1][1] == starts[3][1] == starts[5][1]
    assert starts[0][0] == starts[1][0] < starts[2][0] == starts[3][0] < starts[4][0]


def test_source_of_a_single_copy_is_white(tmp_path):
    first, second = (4, 6, 10, 20), (30, 40, 10, 20)
    edits = (Copy(first, second),)
    pixels, mask = render(_flat(), edits, {})
    base = _negative(_flat(), "cutpaste", -1)
    pasted = dataclasses.replace(
        base, edits=edits, image=pixels, mask=mask, digest=negative_digest(pixels, mask)
    )
    with _write(tmp_path / "part", _flat(), [pasted], {4: _square()}) as negative_set:
        normal, negative = negative_set.normal(1), negative_set[1]
    picture, caption = anchor_tile(normal, negative, None, "drawn anywhere", GREEN, WIDTH)
    assert caption.endswith("from the white box")
    for colour, (y, x, h, w) in ((SOURCE_COLOUR, first), (GREEN, second)):
        spots = np.argwhere((picture == colour).all(axis=2))
        assert spots.min(axis=0).tolist() == [y, x]
        assert spots.max(axis=0).tolist() == [y + h - 1, x + w - 1]


def _blend(image, policy, level, donor, *, normal=1, repeat=0):
    """`donor` mixed in under a square, turned."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    edits = (Blend(array_digest(donor), DonorTransform(2), mask, 200),)
    pixels, mask = render(image, edits, {array_digest(donor): donor})
    return dataclasses.replace(
        _negative(image, policy, level, normal=normal, repeat=repeat, anchors=UNUSED),
        edits=edits,
        image=pixels,
        mask=mask,
        digest=negative_digest(pixels, mask),
    )


def test_what_a_blend_mixes_in_is_shown_as_it_lies(tmp_path):
    donor = _gradient(shift=7)  # the other normal of the set
    rows = [_blend(_gradient(), "perlin", -1, donor)]
    with _write(tmp_path / "part", _gradient(), rows, {4: _square()}) as negative_set:
        assert list(negative_set.donors(1)) == [array_digest(donor)]
        normal, negative = negative_set.normal(1), negative_set[1]
        picture, caption = donor_tile(normal, negative, negative_set.donors(1), SKY, WIDTH)
        sheet = preview_sheet(negative_set, 1, tile_px=WIDTH)
    assert caption == "donor, weight 0.78\nturned 180°"
    # Just outside the mask lies its border, and a dark line around that.
    near = np.zeros((HEIGHT, WIDTH), bool)
    near[8:32, 18:52] = True
    near[10:30, 20:50] = False
    assert (picture[~near] == donor[::-1, ::-1][~near]).all()
    assert (picture[9, 20:50] == SKY).all()
    assert _times(sheet, picture) == 1
    itself = _blend(_gradient(), "perlin", -1, _gradient())
    with _write(tmp_path / "own", _gradient(), [itself], {4: _square()}) as negative_set:
        tile = donor_tile(
            negative_set.normal(1), negative_set[1], negative_set.donors(1), SKY, WIDTH
        )
    assert tile[1].startswith("the image itself, weight")


def test_the_donors_of_one_tile_are_gone_before_the_next(tmp_path, monkeypatch):
    rows = [_blend(_gradient(), "perlin", -1, _gradient(shift=7), repeat=n) for n in range(3)]
    fetch, fetched = NegativeSet.donors, []

    def donors(negative_set, j):
        assert all(image() is None for image in fetched)
        found = fetch(negative_set, j)
        fetched.extend(weakref.ref(image) for image in found.values())
        return found

    monkeypatch.setattr(NegativeSet, "donors", donors)
    with _write(tmp_path / "part", _gradient(), rows, {4: _square()}) as negative_set:
        preview_sheet(negative_set, 1, tile_px=WIDTH)
    assert len(fetched) == 3


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("view", ["mean", "max", None])
def test_blends_guided_by_all_maps_stand_beside_what_they_saw(tmp_path, view, is_merged):
    donor = _gradient(shift=7)
    other = np.zeros((12, 18), np.uint8)
    other[0:4, 0:9] = 200
    maps = {4: _square(), 9: other}
    rows = [_blend(_gradient(), name, -1, donor) for name in ("saliency-perlin", "perlin")]
    with _write(tmp_path / "part", _gradient(), rows, maps) as negative_set:
        recipe = {"perlin": {"saliency": view}}
        if is_merged:  # with a set that has no such kinds
            recipe = {"perlin": None, "parts": [{"policies": ["swap"]}, recipe]}
        negative_set.manifest.recipe.update(recipe)
        sheet = preview_sheet(negative_set, 1, tile_px=WIDTH)
    for one in ("mean", "max"):
        box = (0, 0, HEIGHT, WIDTH)
        full = combined_saliency(list(maps.values()), HEIGHT, WIDTH, box, view=one)
        assert _times(sheet, overlay(_gradient(), full)) == (one == view)
    # In the heading, and in one row of each block that shows no map.
    assert _times(sheet, _gradient()) == 2
    for row in rows:
        assert _times(sheet, row.image) == 2  # both blends are the same


def test_most_salient_region_follows_the_recipe(tmp_path):
    area = {}
    for choice in ("max", "min"):
        rows = [_negative(_flat(), "swap", 4, anchors=UNUSED)]
        options = {
            "clusters": {"k": None, "choice": choice},
            "regions": {"kind": "most-salient", "most_salient": 1000},
        }
        with _write(tmp_path / choice, _flat(), rows, {4: _square()}, **options) as negative_set:
            area[choice] = _tinted(preview_sheet(negative_set, 1, tile_px=WIDTH))
    assert area["max"] == round(1000 * HEIGHT * WIDTH / 256**2)
    assert area["max"] + area["min"] == HEIGHT * WIDTH


def test_what_is_not_there_or_malformed(tmp_path):
    with _write(tmp_path / "none", _gradient(), [], {4: _square()}) as bare:
        picture = preview_sheet(bare, 1, tile_px=WIDTH)
        assert _times(picture, _gradient()) == 1
        with pytest.raises(IndexError):
            preview_sheet(bare, 2)
    text_for_k = {"k": "4", "choice": "max"}
    for number, wrong in enumerate([[], 4, {"k": 4}, "max", text_for_k]):
        with (
            _usual(tmp_path / f"wrong{number}", clusters=wrong) as malformed,
            pytest.raises(SetError, match="clusters"),
        ):
            preview_sheet(malformed, 1)
    for number, wrong in enumerate([[], {"kind": "otsu"}, {"kind": "most-salient"}]):
        with (
            _usual(tmp_path / f"regions{number}", regions=wrong) as malformed,
            pytest.raises(SetError, match="regions"),
        ):
            preview_sheet(malformed, 1)


def test_constant_saliency_is_one_cluster(tmp_path):
    rows = [_negative(_flat(), "swap", 4, anchors=UNUSED)]
    maps = {4: np.zeros((6, 9), np.uint8)}
    options = {"clusters": {"k": 4, "choice": "max"}}
    with _write(tmp_path / "part", _flat(), rows, maps, **options) as negative_set:
        assert _tinted(preview_sheet(negative_set, 1, tile_px=WIDTH)) == HEIGHT * WIDTH
