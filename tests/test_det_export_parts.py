"""The parts of an exported graph beside what they stand for: search, weights of padding, maps."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from detector.export import search_graph
from detector.export.agreement import _picture
from detector.export.canvas_graph import MapGraph, shown_cells, shown_pixels
from detector.export.search_graph import SearchGraph
from detector.features import valid_cells
from detector.memory_bank import MemoryBank
from detector.score_map import score_map
from manifests.geometry import Geometry, place
from manifests.images import fit_image
from manifests.roi import Roi


def bank_of(features: torch.Tensor) -> MemoryBank:
    return MemoryBank(features, torch.zeros(len(features), dtype=torch.int32))


def some(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of patches and of entries."""
    monkeypatch.setattr(search_graph, "_BLOCK_PATCHES", 30)
    monkeypatch.setattr(search_graph, "_BLOCK_ENTRIES", 64)


@pytest.mark.parametrize("entries", [1, 3, 16, 17, 64, 65, 200])
def test_the_search_finds_what_all_distances_find(entries, small_blocks):
    features, patches = some((entries, 7)), some((70, 7), 1)
    distance, row = SearchGraph(bank_of(features))(patches)
    every = (patches[:, None].double() - features[None].double()).square().sum(2).sqrt()
    assert torch.equal(row, every.argmin(1))
    torch.testing.assert_close(distance.double(), every.amin(1), rtol=1e-5, atol=1e-6)


def test_the_picture_that_stands_for_a_photo_fits_any_region():
    for height, width in ((300, 450), (450, 300), (20, 7000), (9, 8), (9000, 3001)):
        mask = np.ones((96, 96), dtype=bool)
        mask[:40] = False
        roi = Roi.of_mask(mask, source_height=height, source_width=width)
        for fit in ("stretch", "crop"):
            canvas, _ = fit_image(_picture(roi), Geometry(96, 96, fit, roi))
            assert canvas.std() > 1


def test_by_hand():
    search = SearchGraph(bank_of(torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])))
    distance, row = search(torch.tensor([[0.0, 0.0], [3.0, 0.0], [10.0, 2.0]]))
    assert distance.tolist() == [0.0, 3.0, 2.0] and row.tolist() == [0, 0, 2]


def test_far_from_the_origin_nothing_cancels():
    """Of a matrix product about the origin nothing would be left here: 1e4² is 1e8, to ±8."""
    features = some((100, 8)) + 1e4
    patches = features[:40] + 0.01 * some((40, 8), 1)
    distance, _ = SearchGraph(bank_of(features))(patches)
    true = (patches.double() - features[:40].double()).square().sum(1).sqrt()
    torch.testing.assert_close(distance.double(), true, rtol=1e-3, atol=0.0)
    own, rows = SearchGraph(bank_of(features))(features)
    assert not own.any() and torch.equal(rows, torch.arange(100))


@pytest.mark.parametrize("entries", [1, 2, 5, 9, 40, 100])
def test_reweighting_is_that_of_the_bank(entries, small_blocks):
    bank = bank_of(some((entries, 6)))
    patches = some((20, 6), 1)
    distance, row = bank.nearest(patches)
    found = SearchGraph(bank).reweight(patches, row, distance)
    torch.testing.assert_close(found, bank.reweight(patches, row, distance), rtol=1e-5, atol=1e-6)


CANVASES = [(64, 96, (8, 12)), (100, 70, (13, 9)), (96, 80, (3, 3)), (40, 40, (40, 40))]
SOURCES = [(64, 96), (10, 400), (400, 10), (1, 300), (333, 100), (97, 101)]


def letterboxes(height: int, width: int) -> np.ndarray:
    geometry = Geometry(height, width, "letterbox")
    return np.array([place(*source, geometry).canvas_box for source in SOURCES])


@pytest.mark.parametrize(("height", "width", "grid"), CANVASES)
def test_cells_and_pixels_of_a_box(height, width, grid):
    geometry = Geometry(height, width, "letterbox")
    boxes = letterboxes(height, width)
    cells = shown_cells(torch.from_numpy(boxes), grid, (height, width)).numpy()
    pixels = shown_pixels(torch.from_numpy(boxes), (height, width)).numpy()
    for box, found, shown in zip(boxes, cells, pixels, strict=True):
        assert np.array_equal(found, valid_cells(grid, geometry, box))
        y, x, h, w = box
        wanted = np.zeros((height, width), bool)
        wanted[y : y + h, x : x + w] = True
        assert np.array_equal(shown, wanted)


def exact_line(cells: int, pixels: int, start: int, length: int) -> list[bool]:
    """Which centres lie in the box, or else the first of the nearest to its middle."""
    centres = [Fraction((2 * k + 1) * pixels, 2 * cells) for k in range(cells)]
    if any(inside := [start <= centre < start + length for centre in centres]):
        return inside
    away = [abs(centre - Fraction(2 * start + length, 2)) for centre in centres]
    return [k == away.index(min(away)) for k in range(cells)]


@pytest.mark.parametrize("pixels", [33, 40, 70, 101])
@pytest.mark.parametrize("cells", [3, 8, 9, 25])
def test_ties_of_cells_are_broken_alike(cells, pixels):
    lines = [(y, h) for y in range(pixels) for h in (1, 2, 3, 7) if y + h <= pixels]
    boxes = np.array([(y, 0, h, 64) for y, h in lines])
    found = shown_cells(torch.from_numpy(boxes), (cells, 2), (pixels, 64)).numpy()
    geometry = Geometry(pixels, 64, "letterbox")
    for (y, h), box, of_graph in zip(lines, boxes, found, strict=True):
        wanted = exact_line(cells, pixels, y, h)
        assert of_graph[:, 0].tolist() == wanted, (y, h)
        assert valid_cells((cells, 2), geometry, box)[:, 0].tolist() == wanted, (y, h)


@pytest.mark.parametrize("sigma_px", [0.0, 4.0])
@pytest.mark.parametrize(("height", "width", "grid"), CANVASES)
def test_maps_are_those_of_score_map(height, width, grid, sigma_px):
    geometry = Geometry(height, width, "letterbox")
    boxes = letterboxes(height, width)
    values = some((len(boxes), *grid)).abs()
    valid = np.stack([valid_cells(grid, geometry, box) for box in boxes])
    wanted = score_map(values, height, width, sigma_px=sigma_px, valid=valid, canvas_boxes=boxes)
    found = MapGraph(geometry, grid, sigma_px)(values, torch.from_numpy(boxes))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not found[~shown_pixels(torch.from_numpy(boxes), (height, width))].any()
    full = MapGraph(replace(geometry, fit="stretch"), grid, sigma_px)(values, None)
    torch.testing.assert_close(full, score_map(values, height, width, sigma_px=sigma_px))
