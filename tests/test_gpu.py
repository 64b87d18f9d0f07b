"""The same on a GPU as on the CPU, within rounding. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, invoke_det, invoke_gen

from detector.coreset import k_centre
from detector.memory_bank import MemoryBank
from detector.model import load_model
from detector.score_map import score_map
from generator.saliency import layer_cam
from manifests.folding import folded_network
from manifests.negative_set import NegativeSet
from manifests.weights import load_network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(autouse=True)
def _full_precision():
    """TF32 keeps ten bits of a product, too few to compare with a CPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)  # (3, 96, 80, 3)


@pytest.mark.parametrize("is_folded", [False, True])
def test_saliency(images, is_folded):
    maps = []
    for device in ("cpu", "cuda"):
        network = load_network(device=device)
        network = folded_network(network) if is_folded else network
        maps.append(layer_cam(network, images, levels=tuple(network.levels), device=device))
    for level, expected in maps[0].items():
        assert np.abs(maps[1][level] - expected).max() <= 0.02 * expected.max(), level


def test_a_set_built_on_it_is_whole_and_names_it(sample_data, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path, "--image-size", IMAGE_SIZE, "--device", "cuda"
    )
    invoke_gen("verify", tmp_path)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    with NegativeSet.open(folder) as negative_set:
        assert len(negative_set) > 0
        environments = [entry.environment for entry in negative_set.manifest.shards]
    assert {one["device"] for one in environments} == {torch.cuda.get_device_name()}


def test_coreset_picks():
    features = torch.randn((3000, 24), generator=torch.Generator().manual_seed(0))
    found = [
        k_centre(features.to(device), 200, rng=np.random.default_rng(1)).cpu()
        for device in ("cpu", "cuda")
    ]
    reach = [torch.cdist(features, features[picks]).amin(1).max() for picks in found]
    assert torch.equal(found[0][:1], found[1][:1])
    assert abs(float(reach[0] - reach[1])) <= 0.02 * float(reach[0])


def test_nearest_neighbours():
    generator = torch.Generator().manual_seed(0)
    features, patches = (torch.randn((n, 40), generator=generator) for n in (700, 500))
    index = torch.zeros(700, dtype=torch.int32)
    found = [
        MemoryBank(features.to(device), index).nearest(patches.to(device))
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(found[0][0], found[1][0].cpu(), rtol=1e-4)
    assert (found[0][1] == found[1][1].cpu()).float().mean() > 0.99


def test_score_map():
    grid = torch.rand((2, 12, 10), generator=torch.Generator().manual_seed(0))
    valid = np.ones((2, 12, 10), dtype=bool)
    boxes = np.array([[0, 0, 96, 80]] * 2)
    maps = [
        score_map(grid.to(device), 96, 80, sigma_px=4.0, valid=valid, canvas_boxes=boxes).cpu()
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(maps[0], maps[1], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ("--frozen-start", 1, "--coreset", 0.05),
        ("--detector", "gaussian", "--frozen-start", 1),
        ("--detector", "guided-seg", "--width", 4),
        ("--detector", "guided-seg", "--width", 4, "--no-guidance"),
        ("--detector", "cavga", "--width", 4),
        ("--detector", "cavga", "--width", 4, "--weak", "--latent", "flat"),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_a_model_fitted_and_trained_on_it_scores_alike_on_both(options, built: Path, tmp_path):
    invoke_det(
        "fit", built, "--out", tmp_path, "--updates", 3, "--batch", 4, "--device", "cuda", *options
    )
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    with NegativeSet.open(next(p for p in built.iterdir() if p.is_dir())) as negative_set:
        image = negative_set.negative_image(0)[None]
    scores = [load_model(folder, device=device).detector.score(image) for device in ("cpu", "cuda")]
    assert np.allclose(scores[0].image, scores[1].image, rtol=0.02)
    assert np.abs(scores[0].map - scores[1].map).max() <= 0.02 * scores[0].map.max()


def test_images_travel_as_bytes(images):
    from manifests.devices import images_on

    moved = images_on("cuda", images[:, ::2])
    assert moved.is_cuda and moved.dtype == torch.uint8
    assert np.array_equal(moved.cpu().numpy(), images[:, ::2])
