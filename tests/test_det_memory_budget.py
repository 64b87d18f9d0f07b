"""Fitting within a memory budget: what streams, that it is repeatable, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import click
import numpy as np
import pytest
import torch
from conftest import REPO, invoke_det

from detector import memory_budget
from detector.config import FitConfig
from detector.detectors import GaussianConfig, GaussianDetector, PatchCore, PatchCoreConfig
from detector.memory_budget import DEFAULT_BYTES, FeatureBudget, check_bank, check_batch
from detector.model import load_model
from manifests.errors import ConfigError, ModelError
from manifests.option_types import BytesType
from reference import coreset as literal_coreset
from reference import patchcore as literal
from reference.small_networks import BOXES, FULL, GEOMETRY, batches, make_images, make_network

# 24 cells of 16 dimensions per image: 104 bytes each, 2496 an image.
CONFIG = PatchCoreConfig(coreset_ratio=0.1, batch=3)
IMAGE_BYTES = 24 * 104


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    monkeypatch.setattr(memory_budget, "SMALLEST_BYTES", 1)


def fitted(images, boxes=None, config: PatchCoreConfig = CONFIG, batch: int = 2):
    source = batches(images, boxes, batch)
    detector = PatchCore(make_network(), GEOMETRY, config)
    detector.fit(source)
    return detector, source


def streaming(images: int) -> PatchCoreConfig:
    """A budget of so many images' features: blocks of half of them."""
    return replace(CONFIG, memory_budget=images * IMAGE_BYTES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4_000_000_000),
        ("500MB", 500_000_000),
        ("2GiB", 2**31),
        ("1.5 gb", 1_500_000_000),
        ("3K", 3000),
        ("3Ki", 3072),
        ("0.3MB", 300_000),
        ("7", 7),
        ("7B", 7),
        (5, 5),
    ],
)
def test_sizes(text, expected):
    assert BytesType().convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 G B", "4XB", "1e9", "4iB", "٣GB", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match="no size"):
        BytesType().convert(text, None, None)


def test_budget_hand_computed():
    # 4 * 152 + 40 = 648 bytes per feature; projected to 100 dimensions 400 more.
    budget = FeatureBudget(1_000_000, 152, 384)
    assert budget.row_bytes == 648
    assert budget.fits(1543) and not budget.fits(1544)
    assert budget.block_rows == budget.candidate_rows == 771
    assert FeatureBudget(1_000_000, 152, 100).row_bytes == 1048
    large = FeatureBudget(10**10, 152, 384)
    assert large.block_rows < large.candidate_rows == 10**10 // 2 // 648
    check_bank(budget, 385)
    check_batch(budget, 771)
    with pytest.raises(ModelError, match=r"bank of 386 patches.*2MB.*--coreset-max"):
        check_bank(budget, 386)
    with pytest.raises(ModelError, match=r"one batch.*--batch-images"):
        check_batch(budget, 772)


def test_what_fits_is_as_without_a_budget():
    images = make_images(9)
    expected, _ = fitted(images)
    found, source = fitted(images, config=streaming(9))
    for name, tensor in expected.state().items():
        assert torch.equal(tensor, found.state()[name])
    for one, other in zip(expected.training_scores(), found.training_scores(), strict=True):
        assert np.array_equal(one, other)
    assert source.passes == 1 and found.coverage.blocks == 1


@pytest.mark.parametrize("boxes", [None, (BOXES * 4)[:17]])
def test_what_does_not_fit_is_looked_at_in_blocks(boxes):
    images = make_images(17)
    detector, source = fitted(images, boxes, streaming(16))
    assert source.passes == 1
    image_scores, _ = detector.training_scores()
    assert source.passes == 2
    assert detector.training_scores()[0] is image_scores and source.passes == 2
    bank, owner = detector.bank.features.numpy(), detector.bank.image_index.numpy()
    assert owner.tolist() == sorted(owner.tolist())
    everything = [
        detector.patches(images[i : i + 1], None if boxes is None else boxes[i : i + 1])[0].numpy()
        for i in range(17)
    ]
    assert len(bank) == -(-sum(map(len, everything)) // 10)
    for entry, image in zip(bank, owner, strict=True):
        # The batch size may change the last bits of a feature, nothing more.
        assert np.abs(everything[image] - entry).max(1).min() < 1e-5
    for i, features in enumerate(everything):
        worst = max(literal.nearest(patch, bank, owner, exclude=i)[0] for patch in features)
        assert image_scores[i] == pytest.approx(worst, rel=1e-4)
    whole, _ = fitted(images, boxes)
    assert not np.array_equal(whole.bank.features.numpy(), bank)
    assert len(whole.bank) == len(bank)


@pytest.mark.parametrize("budget", [8, 100])
def test_coverage_equals_literal(budget):
    images = make_images(17)
    detector, _ = fitted(images, config=streaming(budget))
    assert detector.coverage is None
    detector.training_scores()
    points = detector.patches(images)[0].numpy()
    bank = detector.bank.features.numpy()
    nearest = np.sqrt(np.square(points[:, None].astype(float) - bank[None]).sum(2)).min(1)
    coverage = detector.coverage
    assert coverage.radius == pytest.approx(nearest.max(), rel=1e-4)
    assert coverage.mean == pytest.approx(nearest.mean(), rel=1e-4)
    assert coverage.blocks == (5 if budget == 8 else 1)
    rows = np.concatenate([points, bank])
    covered = literal_coreset.covering_radius(rows, np.arange(len(points), len(rows)))
    assert coverage.radius == pytest.approx(covered, rel=1e-4)
    assert detector.coverage.radius <= detector.training_scores()[0].max()
    detector.fit(batches(images))
    assert detector.coverage is None


def test_streaming_is_seeded_and_repeatable():
    images = make_images(17)
    one, other = (fitted(images, config=streaming(8))[0] for _ in range(2))
    assert torch.equal(one.bank.features, other.bank.features)
    assert np.array_equal(one.training_scores()[1], other.training_scores()[1])
    seeded, _ = fitted(images, config=replace(streaming(8), seed=1))
    assert not torch.equal(one.bank.features, seeded.bank.features)


def test_few_entries_of_many_blocks():
    detector, _ = fitted(make_images(30), config=replace(streaming(4), coreset_max=11), batch=1)
    assert len(detector.bank) == 11
    detector.training_scores()
    assert detector.coverage.blocks == 15


def test_a_budget_too_small_is_named():
    with pytest.raises(ModelError, match=r"bank of 41 patches.*--memory-budget 1MB"):
        fitted(make_images(17), config=streaming(2))
    with pytest.raises(ModelError, match=r"one batch of images with 96 patches"):
        fitted(make_images(17), config=replace(streaming(7), coreset_max=3), batch=4)


def test_a_failed_streamed_fit_leaves_nothing_behind():
    detector, _ = fitted(make_images(17), config=streaming(8))
    detector.network.module.stages[2][0].weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="diverged"):
        detector.fit(batches(make_images(17)))
    for use in (detector.training_scores, detector.state):
        with pytest.raises(ModelError, match="fit it first"):
            use()


def test_the_gaussian_is_the_same_with_any_budget():
    images, boxes = make_images(13), [*BOXES, *BOXES, FULL, FULL, FULL]
    found = []
    for memory_budget_bytes, passes in ((DEFAULT_BYTES, 1), (1000, 2)):
        config = GaussianConfig(batch=3, memory_budget=memory_budget_bytes)
        detector = GaussianDetector(make_network(), GEOMETRY, config)
        source = batches(images, boxes)
        detector.fit(source)
        found.append((*detector.training_scores(), *detector.state().values()))
        assert source.passes == passes
        assert detector.coverage is None
    for one, other in zip(*found, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("kind", [FitConfig, PatchCoreConfig, GaussianConfig])
def test_budgets_that_hold_nothing_are_refused(kind, monkeypatch):
    monkeypatch.setattr(memory_budget, "SMALLEST_BYTES", 1_000_000)
    with pytest.raises(ConfigError, match=r"--memory-budget .*1MB or more.*999999 bytes"):
        kind(memory_budget=999_999)


def test_fit_streams_and_says_so(built, fitted_folder, category_name, tmp_path):
    options = ("fit", built, "--updates", 0, "--coreset", 0.05, "--quiet", "--json")
    # 120 cells of 152 dimensions: at least 78 kB an image, nine images.
    small = (*options, "--batch-images", 2, "--memory-budget", "600kB")
    result = invoke_det(*small, "--out", tmp_path)
    summary = json.loads(result.stdout)[0]
    assert summary["blocks"] == 4
    assert 0 < summary["covering_mean"] < summary["covering_radius"]
    model = load_model(tmp_path / category_name)
    assert model.config.memory_budget == 600_000
    assert len(model.detector.bank) == 54
    again = invoke_det(*small, "--out", tmp_path)
    assert json.loads(again.stdout)[0]["is_unchanged"]
    assert json.loads(again.stdout)[0]["covering_radius"] is None
    invoke_det(*options, "--out", tmp_path, exit_code=1)
    result = invoke_det(*options, "--out", tmp_path / "b", "--memory-budget", "50kB", exit_code=1)
    assert "--memory-budget" in result.output
    result = invoke_det(*options, "--out", tmp_path / "b", "--memory-budget", "lots", exit_code=2)
    assert "no size" in result.output
    # Models made before there was a budget have no such field, and none is written for its default.
    record = json.loads((fitted_folder / category_name / "model.json").read_text())
    assert "memory_budget" not in record["config"]
    assert load_model(fitted_folder / category_name).config.memory_budget == DEFAULT_BYTES


@pytest.fixture
def fitted_folder(request):
    return request.getfixturevalue("fitted")


_PEAK = """
import resource, sys
import numpy as np, torch
from detector.features import cell_origins
from detector.memory_budget import FeatureBudget
from detector.merge_reduce import Reduction
from detector.streamed_bank import stream_bank

images, cells, dim = int(sys.argv[1]), 1024, 64
torch.set_num_threads(1)
budget = FeatureBudget(16_000_000, dim, 384)
reduction = Reduction(
    bank_rows=1000, total_rows=images * cells, capacity_rows=budget.candidate_rows, seed=0
)

def parts():
    for i in range(0, images, 8):
        rng = np.random.default_rng(i)
        features = torch.from_numpy(rng.random((8 * cells, dim), np.float32))
        yield features, cell_origins(np.ones((8, 1, cells), bool), first_image=i)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = stream_bank(parts(), reduction=reduction, budget=budget, size_of=lambda _: 1000)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before, peak, found.blocks, found.merges)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_images():
    """In processes of their own: what torch takes, only the operating system sees."""
    grown = {}
    for images in (2560, 5120):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(images)],
            cwd=REPO, capture_output=True, text=True, check=True,
        )  # fmt: skip
        before, peak, blocks, merges = map(int, done.stdout.split())
        assert merges > 0 and blocks > images * 1024 * 296 / 16e6
        grown[images] = (peak - before) * 1024
    # Features alone would be 671 MB and 1.3 GB; blocks of distances are the constant part.
    assert grown[5120] < 16e6 + 64e6
    assert grown[5120] < 1.25 * grown[2560]
