"""Perlin noise: against a literal reference, by hand, and with nothing missing in any corner."""

from __future__ import annotations

import math

import numpy as np
import pytest

from generator import perlin_noise as module
from generator.perlin_noise import Lattice, draw_lattice, noise_of, perlin_noise
from reference import perlin as literal


@pytest.mark.parametrize(("height", "width"), [(24, 40), (33, 17), (1, 9), (2, 1)])
@pytest.mark.parametrize("exponents", [(0, 0), (0, 5), (3, 3)])
def test_noise_is_that_of_the_literal_reference(height, width, exponents, monkeypatch):
    monkeypatch.setattr(module, "_BAND_PX", 7 * width)  # several bands, the last one smaller
    rng = np.random.default_rng(height)
    for _ in range(4):
        lattice = draw_lattice(rng, height, width, exponents=exponents)

        def gradient(i, j, lattice=lattice):
            row, column = i - lattice.top, j - lattice.left
            assert row >= 0 and column >= 0
            return lattice.gradients[row, column]

        expected = literal.noise(
            height, width, lattice.cells_y, lattice.cells_x, lattice.angle_rad, gradient
        )
        found = noise_of(lattice)
        assert found.dtype == np.float32 and found.shape == (height, width)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_one_cell_by_hand():
    # Two by two pixels in one cell, a quarter and three quarters into it. All gradients are 0 but
    # the upper-left one, which points down: its product with the way from there is a quarter in the
    # upper row and three quarters in the lower one.
    gradients = np.zeros((2, 2, 2))
    gradients[0, 0] = (1.0, 0.0)
    near = 1 - (6 / 4**5 - 15 / 4**4 + 10 / 4**3)  # 1 - fade(1/4)
    far = 1 - near  # 1 - fade(3/4), as the fade is symmetric
    assert near == pytest.approx(0.896484375)
    expected = math.sqrt(2) * np.array(
        [[near * near / 4, near * far / 4], [far * near * 3 / 4, far * far * 3 / 4]]
    )
    lattice = Lattice(2, 2, 1, 1, 0.0, 0, 0, gradients)
    np.testing.assert_allclose(noise_of(lattice), expected, atol=1e-7)
    assert expected[0, 0] == pytest.approx(0.28414, abs=1e-5)


def test_a_quarter_turn_turns_the_picture():
    # About its middle: what lay above lies to the right.
    gradients = np.random.default_rng(0).normal(size=(5, 5, 2))
    upright = Lattice(32, 32, 4, 4, 0.0, 0, 0, gradients)
    turned = Lattice(32, 32, 4, 4, math.pi / 2, 0, 0, gradients)
    np.testing.assert_allclose(noise_of(turned), np.rot90(noise_of(upright), -1), atol=1e-6)


def test_no_corner_is_empty_and_values_keep_their_range():
    rng = np.random.default_rng(1)
    drawn = np.stack([perlin_noise(rng, 48, 64) for _ in range(300)])
    assert -1 <= drawn.min() < -0.85 and 0.85 < drawn.max() <= 1
    assert abs(drawn.mean()) < 0.02
    corners = drawn[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    # As lively as anywhere else, where a turned picture would be 0 in half of its corners.
    assert (np.abs(corners) > 1e-3).mean() > 0.97
    assert corners.std(axis=0).min() > 0.6 * drawn.std()


def test_cells_and_turns_are_as_asked_for():
    rng = np.random.default_rng(2)
    lattices = [draw_lattice(rng, 256, 200, exponents=(0, 5)) for _ in range(400)]
    cells = {(one.cells_y, one.cells_x) for one in lattices}
    assert {y for y, _ in cells} == {x for _, x in cells} == {1, 2, 4, 8, 16, 32}
    assert len(cells) == 36  # each side by itself
    turns = [math.degrees(one.angle_rad) for one in lattices]
    assert -90 <= min(turns) < -80 and 80 < max(turns) <= 90
    np.testing.assert_allclose(np.linalg.norm(lattices[0].gradients, axis=-1), 1)
    # A cell is 2 px long at least.
    small = [draw_lattice(rng, 8, 3, exponents=(4, 8)) for _ in range(10)]
    assert {(one.cells_y, one.cells_x) for one in small} == {(4, 1)}


def test_the_same_generator_gives_the_same_noise():
    one, other = (perlin_noise(np.random.default_rng(7), 40, 60) for _ in range(2))
    assert (one == other).all()
    assert (one != perlin_noise(np.random.default_rng(8), 40, 60)).any()
