"""Exported graphs beside the detectors that they come from, in every runtime."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detector.detectors import (
    DETECTORS,
    CavgaConfig,
    GaussianConfig,
    GuidedConfig,
    PatchCore,
    PatchCoreConfig,
)
from detector.export.agreement import check_agreement
from detector.export.graphs import GRAPHS, trace_graph
from detector.export.onnx_file import onnx_bytes, open_onnx
from detector.export.openvino_file import open_openvino, write_openvino
from detector.export.torch_file import archive_bytes, open_archive
from manifests.errors import ConfigError
from manifests.geometry import Geometry
from manifests.roi import Roi
from reference import small_cavga, small_guided
from reference.small_networks import (
    BOXES,
    FULL,
    GEOMETRY,
    batches,
    defect,
    make_images,
    make_network,
)

CAVGA = CavgaConfig(latent_channels=4, latent_stage=3, width=4)
GUIDED = GuidedConfig(references=6, width=small_guided.WIDTH)


def shaken(networks) -> dict[str, torch.Tensor]:
    """What training would leave, without training: no weight is 0, so that every part counts."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: one + 0.02 * torch.randn(one.shape, generator=generator)
        for name, one in networks.learned().items()
    }


def guided() -> dict[str, torch.Tensor]:
    return shaken(small_guided.new_networks())


def cavga(**shape) -> dict[str, torch.Tensor]:
    return shaken(small_cavga.new_networks(replace(small_cavga.SHAPE, **shape)))


# name -> detector, config, what training left, whether it looks with the untuned network too.
CASES = {
    "patchcore": ("patchcore", PatchCoreConfig(coreset_ratio=0.2), None, False),
    "patchcore-reweight": (
        "patchcore", PatchCoreConfig(coreset_ratio=0.2, reweight=True, sigma_px=0.0), None, False,
    ),
    "patchcore-untuned": ("patchcore", PatchCoreConfig(coreset_ratio=0.5), None, True),
    "gaussian": ("gaussian", GaussianConfig(), None, False),
    "guided": ("guided-seg", GUIDED, guided, True),
    "guided-blur": ("guided-seg", replace(GUIDED, sigma_px=8.0), guided, True),
    "cavga": ("cavga", CAVGA, cavga, False),
    "cavga-sigmoid": (
        "cavga", replace(CAVGA, normaliser="sigmoid", sigma_px=8.0), cavga, False,
    ),
    "cavga-flat": (
        "cavga", replace(CAVGA, latent="flat"), lambda: cavga(latent="flat"), False,
    ),
    "cavga-weak": (
        "cavga", replace(CAVGA, weak=True), lambda: cavga(is_weak=True), False,
    ),
}  # fmt: skip


def geometry_of(fit: str) -> Geometry:
    """The small canvas; "roi" is a stretched one of which an odd part is inspected."""
    if fit != "roi":
        return replace(GEOMETRY, fit=fit)
    h, w = GEOMETRY.height, GEOMETRY.width
    mask = np.add.outer(np.arange(h), np.arange(w)) < 50
    mask[10:14, 20:30] = False
    return replace(GEOMETRY, roi=Roi.of_mask(mask, source_height=h, source_width=w))


@functools.cache
def fitted(case: str, fit: str):
    name, config, learned, needs_untuned = CASES[case]
    detector = DETECTORS[name](
        make_network(),
        geometry_of(fit),
        config,
        untuned=make_network(seed=1) if needs_untuned else None,
        learned=learned() if learned else None,
    )
    images = inspected(make_images(10), detector.geometry)
    detector.fit(batches(images, (BOXES * 2) if fit == "letterbox" else None))
    return name, detector


def inspected(images: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Images as `fit_image` makes them: black outside the region of interest."""
    return images if geometry.roi is None else images * geometry.roi.mask[..., None]


def questions(fit: str) -> tuple[np.ndarray, np.ndarray]:
    images = make_images(5, seed=3)
    images[1::2] = np.stack([defect(image) for image in images[1::2]])
    return images, np.array(BOXES if fit == "letterbox" else [FULL] * 5)


def agrees(found, wanted) -> None:
    score, maps = (np.asarray(one) for one in found)
    assert score.dtype == maps.dtype == np.float32
    np.testing.assert_allclose(score, wanted.image, rtol=1e-4)
    np.testing.assert_allclose(maps, wanted.map, rtol=0, atol=1e-4 * wanted.map.max())


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "roi"])
@pytest.mark.parametrize("case", CASES)
def test_a_graph_says_what_the_detector_says(case, fit):
    name, detector = fitted(case, fit)
    images, boxes = questions(fit)
    wanted = detector.score(inspected(images, detector.geometry), boxes)
    graph = GRAPHS[name](detector).eval()
    inputs = [torch.from_numpy(images)]
    if fit == "letterbox":
        inputs.append(torch.from_numpy(boxes))
    with torch.no_grad():
        agrees(graph(*inputs), wanted)
    if fit == "roi":
        assert not wanted.map[:, ~detector.geometry.roi.mask].any()
    # Not one answer for all.
    assert len(np.unique(wanted.image)) == len(images)


def test_a_batch_of_a_region_agrees_with_the_model():
    """What the comparison shifts to make other images of one stays black outside the region."""
    name, detector = fitted("patchcore", "roi")
    program = trace_graph(name, detector, batch=3)

    def run(inputs):
        with torch.no_grad():
            return [one.numpy() for one in program.module()(*map(torch.from_numpy, inputs))]

    model = SimpleNamespace(detector=detector, geometry=detector.geometry)
    found = check_agreement(model, run, path=Path("x.pt2"), batch=3)
    assert found.images == 3 and found.score < 1e-4 and found.map < 1e-4


def test_every_detector_has_a_graph():
    assert set(GRAPHS) == set(DETECTORS) == {name for name, *_ in CASES.values()}


def described(detector, batch: int) -> dict:
    names = ["image", *(["canvas_box"] if detector.geometry.fit == "letterbox" else [])]
    return {"inputs": [{"name": name, "shape": [batch]} for name in names]}


@pytest.mark.parametrize(
    ("case", "fit"),
    [
        ("patchcore", "stretch"),
        *(
            pytest.param(case, fit, marks=pytest.mark.slow)
            for case, fit in [
                ("patchcore-reweight", "letterbox"),
                ("patchcore", "roi"),
                ("gaussian", "stretch"),
                ("gaussian", "letterbox"),
                ("guided", "stretch"),
                ("guided-blur", "letterbox"),
                ("cavga", "letterbox"),
                ("cavga-flat", "stretch"),
                ("cavga-weak", "stretch"),
            ]
        ),
    ],
)
def test_every_runtime_says_the_same(case, fit, tmp_path):
    name, detector = fitted(case, fit)
    images, boxes = questions(fit)
    inputs = [images, boxes.astype(np.int64)][: 2 if fit == "letterbox" else 1]
    wanted = detector.score(inspected(images, detector.geometry), boxes)
    description = described(detector, len(images))
    program = trace_graph(name, detector, batch=len(images))
    onnx = onnx_bytes(program, description)
    (tmp_path / "a.onnx").write_bytes(onnx)
    agrees(open_onnx(tmp_path / "a.onnx", description)(inputs), wanted)
    write_openvino(onnx, tmp_path / "a.xml", description)
    agrees(open_openvino(tmp_path / "a.xml", description)(inputs), wanted)
    archive = archive_bytes(program, description)
    (tmp_path / "a.pt2").write_bytes(archive)
    agrees(open_archive(tmp_path / "a.pt2")(inputs), wanted)
    for data in (onnx, archive, (tmp_path / "a.xml").read_bytes()):
        assert str(tmp_path).encode() not in data and b"site-packages" not in data
        assert b"detector/" not in data and b".py" not in data


def test_an_archive_holds_no_pickle_and_no_weights_of_later_stages(tmp_path):
    detector = PatchCore(make_network(depth=5), GEOMETRY, PatchCoreConfig(coreset_ratio=0.2))
    detector.fit(batches(make_images(4)))
    program = trace_graph("patchcore", detector, batch=1)
    (tmp_path / "a.pt2").write_bytes(archive_bytes(program, described(detector, 1)))
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        for member in archive.namelist():
            data = archive.read(member)
            # A pickle of any protocol from 2 on, or the zip file that torch.save writes.
            assert data[:1] != b"\x80" and data[:2] != b"PK", member
    # Stages 2 and 3 are compared; the network has a fifth, of which the tracer saw the weights.
    kept = torch.export.load(tmp_path / "a.pt2").state_dict
    assert any("stages.4" in one for one in program.state_dict)
    assert any("stages.3" in one for one in kept) and not any("stages.4" in one for one in kept)


def test_what_cannot_be_a_graph_is_refused():
    name, detector = fitted("patchcore", "stretch")
    with pytest.raises(ConfigError, match="batch out of range"):
        trace_graph(name, detector, batch=0)
    padded = replace(geometry_of("roi"), fit="letterbox")
    both = DETECTORS[name](make_network(), padded, PatchCoreConfig())
    with pytest.raises(ConfigError, match="region of interest and padding"):
        trace_graph(name, both, batch=1)
    tiled = DETECTORS[name](make_network(), Geometry(512, 512), PatchCoreConfig(tile=256))
    with pytest.raises(ConfigError, match="looks at tiles"):
        trace_graph(name, tiled, batch=1)
    half = DETECTORS[name](make_network(), GEOMETRY, PatchCoreConfig(precision="bf16"))
    with pytest.raises(ConfigError, match=r"compute in fp32.*--precision fp32"):
        trace_graph(name, half, batch=1)
