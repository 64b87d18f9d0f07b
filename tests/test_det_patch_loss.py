"""The loss over cells: which count as edited, what they weigh, what is recognised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector.patch_loss import (
    balanced_accuracy,
    cell_counts,
    cell_loss,
    cell_targets,
    joined_features,
    make_patch_head,
)
from reference.training import cell_loss_literally, cell_targets_literally

LN2 = math.log(2.0)


def test_a_cell_counts_when_more_than_a_quarter_is_covered():
    masks = torch.zeros((2, 8, 12), dtype=torch.bool)  # cells of 4x4
    masks[0, 0, :4] = True  # exactly a quarter
    masks[0, 4:6, 4:8] = True  # half
    masks[1, 0, 8:12] = True
    masks[1, 1, 8] = True  # a quarter and a pixel
    targets = cell_targets(masks, (2, 3))
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[[0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]


@pytest.mark.parametrize("grid", [(5, 7), (3, 4), (7, 5), (20, 28), (1, 1)])
def test_targets_equal_the_literal_ones(grid):
    rng = np.random.default_rng(3)
    masks = rng.random((6, 20, 28)) < np.array([0.1, 0.2, 0.25, 0.3, 0.5, 0.9])[:, None, None]
    targets = cell_targets(torch.from_numpy(masks), grid).numpy()
    for mask, found in zip(masks, targets, strict=True):
        np.testing.assert_array_equal(found, cell_targets_literally(mask, grid))


def test_an_exact_quarter_never_counts_whatever_the_size_of_cells():
    for height in range(1, 33):
        for width in range(4, 65, 4):
            mask = torch.zeros((1, height, width), dtype=torch.bool)
            mask.view(-1)[: height * width // 4] = True
            assert cell_targets(mask, (1, 1)).item() == 0.0
            mask.view(-1)[height * width // 4] = True
            assert cell_targets(mask, (1, 1)).item() == 1.0


def test_the_loss_by_hand():
    # One edited cell of four weighs three: 3 ln 2 + 3 ln 2 over four cells.
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert cell_loss(torch.zeros((1, 2, 2)), targets).item() == pytest.approx(1.5 * LN2)
    assert cell_loss(torch.zeros((1, 2, 2)), 0 * targets).item() == pytest.approx(LN2)
    # 199 to 1 is more than 50.
    targets = torch.zeros((1, 10, 20))
    targets[0, 3, 4] = 1.0
    expected = (50 * LN2 + 199 * LN2) / 200
    assert cell_loss(torch.zeros((1, 10, 20)), targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.8, 1.0])
def test_the_loss_equals_the_literal_one(part):
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn((3, 5, 7), generator=generator, dtype=torch.float64)
    targets = (torch.rand((3, 5, 7), generator=generator) < part).double()
    expected = cell_loss_literally(logits, targets)
    assert cell_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)


def test_balanced_accuracy_by_hand():
    logits = torch.tensor([[[2.0, -1.0, -3.0], [0.0, 1.0, -2.0]]])
    targets = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    # Edited: one of two; unedited: three of four (0 is not over 0).
    assert balanced_accuracy(cell_counts(logits, targets)) == pytest.approx((0.5 + 0.75) / 2)
    assert balanced_accuracy(cell_counts(logits, torch.zeros_like(targets))) == pytest.approx(4 / 6)
    assert balanced_accuracy(cell_counts(logits, torch.ones_like(targets))) == pytest.approx(2 / 6)


def test_stages_are_joined_on_the_finest_grid():
    fine = torch.arange(8.0).view(1, 1, 2, 4)
    coarse = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    joined = joined_features([fine, coarse])
    assert joined.shape == (1, 2, 2, 4)
    assert torch.equal(joined[:, :1], fine)
    # Centres of fine cells lie a quarter of a coarse cell beside its own.
    assert joined[0, 1].tolist() == [[1.0, 1.5, 2.5, 3.0]] * 2
    assert joined_features([fine.bfloat16(), coarse]).dtype == torch.float32


def test_the_head_follows_from_its_generator():
    def head(seed: int):
        return make_patch_head(20, torch.Generator().manual_seed(seed))

    state = torch.random.get_rng_state()
    first, again, other = head(1), head(1), head(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first(torch.zeros((3, 20, 5, 6))).shape == (3, 1, 5, 6)
    assert 0.9 * 20**-0.5 < first[0].weight.abs().max() <= 20**-0.5
