"""The tuned extractor in anomalib: the document's own lines, on photos of magnetic tiles.

Needs anomalib, which has an environment of its own: `make test-peers`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPO, invoke_det, invoke_gen

from detector.image_stream import ImageStream
from detector.metrics import image_metrics
from detector.model import load_model
from detector.model_folder import find_model
from detector.scoring import score_stream
from manifests.datasets import open_data
from manifests.images import DEFAULT_MAX_PIXELS

pytestmark = pytest.mark.slow

# anomalib 2.7 took 12 GB to choose 400 of the patches of 40 tiles; both grow with the tiles.
TRAINING, GOOD, BAD = 16, 50, 75
DOCUMENT = (REPO / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tiles, tiles_list, tmp_path_factory) -> SimpleNamespace:
    """A model tuned for a few updates, its extractor, and photos laid out as the document says."""
    pytest.importorskip("anomalib.data")
    out = tmp_path_factory.mktemp("peers")
    (category,) = open_data([tiles], train_list=tiles_list)
    chosen = {
        "train/good": every([one for one in category.samples if one.split == "train"], TRAINING),
        "test/good": every(test_images(category, is_bad=False), GOOD),
        "test/bad": every(test_images(category, is_bad=True), BAD),
    }
    for folder, samples in chosen.items():
        (out / "data" / folder).mkdir(parents=True)
        for sample in samples:
            name = sample.source.replace("/", "-")
            # Not a link, which anomalib would follow to another name.
            shutil.copyfile(sample.path, out / "data" / folder / name)
    invoke_gen(
        "build", out / "data" / "train" / "good", "--format", "folder", "--out", out / "set",
        "--policies", "cutpaste", "--quiet",
    )  # fmt: skip
    invoke_det(
        "fit", out / "set", "--out", out / "model", "--updates", 6, "--frozen-start", 2,
        "--coreset", 0.01, "--reweight", "--quiet",
    )  # fmt: skip
    model = find_model(out / "model")
    invoke_det(
        "export", model, "--to", "timm", "--out", out / "extractor.safetensors",
    )  # fmt: skip
    return SimpleNamespace(out=out, model=load_model(model))


def test_images(category, *, is_bad: bool) -> list:
    return [one for one in category.samples if one.split == "test" and bool(one.label) == is_bad]


test_images.__test__ = False


def every(samples: list, count: int) -> list:
    """So many of them, spread over all."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int)]


def our_scores(model, files: list[Path]) -> np.ndarray:
    stream = ImageStream(
        files, model.geometry, batch=model.config.batch, max_pixels=DEFAULT_MAX_PIXELS
    )
    return np.concatenate([found.image for _, found in score_stream(model.detector, stream)])


def test_anomalib_with_our_extractor_tells_as_we_do(made, monkeypatch):
    monkeypatch.chdir(made.out)
    code = DOCUMENT.split("<!-- anomalib -->\n```python\n")[1].split("```")[0]
    names: dict = {}
    exec(compile(code, "export.md", "exec"), names)
    theirs: dict[str, float] = {}
    for part in names["predictions"]:
        for path, score in zip(part.image_path, part.pred_score.reshape(-1), strict=True):
            theirs[str(Path(path).relative_to(Path(path).parents[2]))] = float(score)
    files = sorted((made.out / "data" / "test").glob("*/*"))
    ours = our_scores(made.model, files)
    found = np.array([theirs[str(one.relative_to(made.out / "data"))] for one in files])
    labels = np.array([one.parent.name == "bad" for one in files])
    assert labels.sum() == BAD and (~labels).sum() == GOOD
    own, other = (image_metrics(one, labels).auroc for one in (ours, found))
    order = np.corrcoef(ours.argsort().argsort(), found.argsort().argsort())[0, 1]
    print(f"\nimage AUROC: ours {own:.4f}, anomalib's {other:.4f}; rank correlation {order:.4f}")
    assert own > 0.6 and abs(own - other) < 0.03 and order > 0.9
    # The weights make the difference: they are not the ones that everybody has.
    assert made.model.detector.network.digest != made.model.initial_digest
    kept = names["extractor"].state_dict()
    weights = made.model.detector.network.module.state_dict()
    assert all((kept[name].cpu() == weights[name]).all() for name in kept)
    assert json.loads((made.out / "extractor.safetensors.json").read_bytes())["layers"] == [
        *names["about"]["layers"]
    ]
