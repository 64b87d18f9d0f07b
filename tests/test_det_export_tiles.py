"""Exported graphs on real photos: the magnetic tiles, every test image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import invoke_det, invoke_gen

from detector.export.exporting import SUFFIXES, export_model
from detector.export.onnx_file import open_onnx
from detector.export.openvino_file import open_openvino
from detector.export.torch_file import open_archive
from detector.model import load_model
from detector.model_folder import find_model
from manifests.datasets import open_data
from manifests.images import fit_image, read_image
from manifests.strict_json import load_json

pytestmark = pytest.mark.slow

NEAR = 1e-3
"""Of the threshold: a verdict may turn where a score lies closer to it."""


@pytest.fixture(scope="module")
def made(tiles, tiles_list, tmp_path_factory) -> SimpleNamespace:
    """Untuned models of the tiles, and the paths of all test images."""
    out = tmp_path_factory.mktemp("tiles")
    invoke_gen(
        "build", tiles, "--train-list", tiles_list, "--out", out / "set", "--policies", "cutpaste",
        "--quiet",
    )  # fmt: skip
    for name, options in {
        "patchcore": ("--coreset-max", 2000),
        "reweight": ("--coreset-max", 500, "--reweight"),
        "gaussian": ("--detector", "gaussian"),
    }.items():
        invoke_det("fit", out / "set", "--out", out / name, "--updates", 0, "--quiet", *options)
    (category,) = open_data([tiles], train_list=tiles_list)
    files = [one.path for one in category.samples if one.split == "test"]
    return SimpleNamespace(out=out, files=files)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("patchcore", "onnx"),
        ("patchcore", "openvino"),
        ("patchcore", "torch-export"),
        ("reweight", "onnx"),
        ("gaussian", "onnx"),
        ("gaussian", "openvino"),
    ],
)
def test_scores_and_verdicts_are_the_models(made, tmp_path, name, to):
    check_tiles(find_model(made.out / name), made.files, tmp_path, to)


def check_tiles(folder: Path, files: list[Path], out: Path, to: str) -> None:
    """Every score to a part in 1,000; every verdict that is not as close to the threshold."""
    done = export_model(folder, (out / "part").with_suffix(SUFFIXES[to][0]), to=to)
    model = load_model(folder)
    run = open_export(done.path, to)
    wanted, found, map_away = [], [], []
    for start in range(0, len(files), 8):
        canvases = [
            fit_image(read_image(one), model.geometry)[0] for one in files[start : start + 8]
        ]
        ours = model.detector.score(np.stack(canvases))
        theirs = [run([canvas[None]]) for canvas in canvases]
        maps = np.concatenate([one for _, one in theirs])
        wanted.append(ours.image)
        found.append(np.concatenate([score for score, _ in theirs]))
        map_away.append(np.abs(maps - ours.map).max((1, 2)) / ours.map.max((1, 2)))
    wanted, found = np.concatenate(wanted), np.concatenate(found)
    away = np.abs(found - wanted) / wanted
    limit = model.image_threshold.value
    turned = (found > limit) != (wanted > limit)
    print(
        f"\n{model.config.detector} {to}: {len(files)} tiles, scores differ by at most "
        f"{away.max():.2g}, maps by {np.concatenate(map_away).max():.2g}, verdicts: {turned.sum()}"
    )
    assert len(files) > 500 and away.max() <= 1e-3 and np.concatenate(map_away).max() <= 1e-3
    assert not turned[np.abs(wanted / limit - 1.0) > NEAR].any()
    # Both verdicts occur, so that one that never changes would not do.
    assert 0 < (wanted > limit).sum() < len(files)


def open_export(path: Path, to: str):
    if to == "torch-export":
        return open_archive(path)
    description = load_json(path.with_name(path.name + ".json").read_bytes(), max_bytes=1 << 20)
    return {"onnx": open_onnx, "openvino": open_openvino}[to](path, description)
