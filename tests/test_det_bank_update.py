"""`cutswap-det bank update`: what joins a bank, and what that does to scores and thresholds."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, invoke_det, invoke_gen
from PIL import Image

from detector.bank_growth import new_entries
from detector.bank_update import update_bank
from detector.detectors import PatchCore
from detector.detectors.training_scores import leave_one_out
from detector.hold_out import held_out
from detector.memory_bank import MemoryBank
from detector.model import Model, load_model, save_model
from detector.threshold import fit_threshold
from detector.verify_model import verify_model
from manifests.digest import array_digest, file_digest
from manifests.errors import ConfigError, ModelError
from manifests.images import fit_image, read_image, write_png
from manifests.negative_set import NegativeSet
from reference import coreset as literal
from reference.old_models import make_version_5
from reference.patchcore import refilled

COUNT = 16
OPTIONS = ("--updates", 0, "--coreset", 0.05, "--quiet")


@pytest.fixture(scope="session")
def halves(tmp_path_factory) -> Path:
    """One folder of good images in two halves, `one` and `two`, and both together, `all`."""
    from generator.sample_data import render_sample_data

    root = tmp_path_factory.mktemp("halves")
    render_sample_data(root / "sample", seed=3, train=COUNT, test_good=2, per_defect=1)
    (category,) = (path for path in (root / "sample").iterdir() if path.is_dir())
    files = sorted((category / "train" / "good").glob("*.png"))
    for name, part in (("one", files[::2]), ("two", files[1::2]), ("all", files)):
        (root / name / "part").mkdir(parents=True)
        for path in part:
            shutil.copy(path, root / name / "part" / path.name)
    (root / "test").mkdir()
    for path in (category / "test").glob("*/*.png"):
        shutil.copy(path, root / "test" / f"{path.parent.name}-{path.name}")
    for name in ("one", "all"):
        invoke_gen(
            "build", root / name / "part", "--out", root / "sets" / name, "--image-size",
            IMAGE_SIZE, "--policies", "random-swap", "--jobs", 1, "--quiet",
        )  # fmt: skip
        invoke_det("fit", root / "sets" / name, "--out", root / "models" / name, *OPTIONS)
    return root


@pytest.fixture(scope="session")
def updated(halves) -> tuple[Model, dict]:
    """The first half's model with the second half, and what was told of it."""
    return update(halves, halves / "models" / "updated")


def update(halves: Path, out: Path, *options: object, model: str = "one") -> tuple[Model, dict]:
    result = invoke_det(
        "bank", "update", halves / "models" / model, halves / "two", "--out", out, *options,
        "--json", "--quiet",
    )  # fmt: skip
    (told,) = json.loads(result.stdout)
    return load_model(out / "part"), told


def model_of(halves: Path, name: str) -> Model:
    return load_model(halves / "models" / name / "part")


def canvases(folder: Path, model: Model) -> tuple[np.ndarray, list[str]]:
    """Images of a folder on the canvas, and digests, in the order of these."""
    images = [fit_image(read_image(path), model.geometry)[0] for path in folder.rglob("*.png")]
    images.sort(key=array_digest)
    return np.stack(images), [array_digest(image) for image in images]


def scores_without_own(
    model: Model, images: np.ndarray, first: int, *, before: Model | None = None
) -> np.ndarray:
    """(n, 2): image score and map's maximum of each, from the literal rule.

    Holes are filled in the model's bank, or in that of `before`, of which it holds all entries.
    """
    looked = [model.detector.patches(image[None]) for image in images]
    patches = [one[0].numpy() for one in looked]
    bank = model.detector.bank
    holed = bank if before is None else before.detector.bank
    entries, owners = holed.features.numpy(), holed.image_index.numpy()
    found = []
    for number, (own, valid, boxes) in enumerate(looked):
        kept, kept_owners = refilled(patches, entries, owners, number, first=first)
        without = MemoryBank(
            torch.cat([torch.from_numpy(kept), bank.features[len(holed) :]]),
            torch.cat([torch.from_numpy(kept_owners).int(), bank.image_index[len(holed) :]]),
        )
        scores = model.detector.score_found(
            own, without.nearest(own), valid, boxes, exclude_image=None, bank=without
        )
        found.append((scores.image[0], scores.map.max()))
    return np.array(found)


# ---- what joins ---------------------------------------------------------------------------------


def test_the_greedy_search_goes_on(halves, updated):
    before, (after, told) = model_of(halves, "one"), updated
    old, new = before.detector.bank, after.detector.bank
    images, digests = canvases(halves / "two", before)
    patches = torch.cat([before.detector.patches(image[None])[0] for image in images])
    # The share of the fit, and the literal algorithm.
    count = -(-len(patches) // 20)
    picks = sorted(literal.more_centres(patches.numpy(), old.features.numpy(), count).tolist())
    assert len(new) == len(old) + count
    assert torch.equal(new.features[: len(old)], old.features)
    assert torch.equal(new.cell[: len(old)], old.cell)
    assert torch.allclose(new.features[len(old) :], patches[picks], atol=1e-4)
    cells = len(patches) // len(images)
    assert new.image_index[len(old) :].tolist() == [8 + pick // cells for pick in picks]
    assert new.cell[len(old) :].tolist() == [pick % cells for pick in picks]
    assert [one.pixel_digest for one in after.normals[8:]] == digests
    assert after.normals[:8] == before.normals and after.added_normals == 8
    assert (told["entries_before"], told["entries_added"]) == (len(old), count)
    # How far the new patches were from the bank and are.
    for name, bank in (("before", old), ("after", new)):
        far = torch.cdist(patches, bank.features, compute_mode="donot_use_mm_for_euclid_dist")
        coverage = told[f"coverage_{name}"]
        assert coverage["radius"] == pytest.approx(float(far.amin(1).max()), rel=1e-4)
        assert coverage["mean"] == pytest.approx(float(far.amin(1).mean()), rel=1e-3)
        assert coverage["patches"] == len(patches)
    assert told["coverage_after"]["radius"] < told["coverage_before"]["radius"]


def test_training_files_and_digests(halves, updated):
    before, (after, _) = model_of(halves, "one"), updated
    new = {file_digest(path) for path in (halves / "two").rglob("*.png")}
    assert after.training_files == before.training_files | new and len(new) == 8
    assert after.set_digest == before.set_digest and after.config == before.config
    folder = halves / "models" / "updated" / "part"
    assert verify_model(folder) == []
    for name in ("extractor.safetensors",):
        assert file_digest(folder / name) == file_digest(halves / "models" / "one" / "part" / name)
    text = invoke_det("inspect", folder).stdout
    assert "8 normals added to it" in text and "8 of them by upper bounds" in text


def test_order_and_names_change_nothing(halves, updated, tmp_path):
    files = sorted((halves / "two").rglob("*.png"), reverse=True)
    for number, path in enumerate(files):
        shutil.copy(path, tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    invoke_det("bank", "update", halves / "models" / "one", *paths, "--out", tmp_path, "--quiet")
    again, (first, _) = load_model(tmp_path / "part"), updated
    for name, tensor in first.detector.state().items():
        assert torch.equal(tensor, again.detector.state()[name])
    assert (again.calibration.image == first.calibration.image).all()


def test_it_comes_close_to_a_fit_of_all(halves, updated):
    whole, (after, _) = model_of(halves, "all"), updated
    images, _ = canvases(halves / "all", whole)
    patches = torch.cat([whole.detector.patches(image[None])[0] for image in images])
    radius = {}
    for name, model in (("all", whole), ("updated", after)):
        radius[name] = float(model.detector.bank.nearest(patches)[0].max())
    assert len(after.detector.bank) == pytest.approx(len(whole.detector.bank), abs=1)
    assert radius["updated"] <= 1.2 * radius["all"]
    tests, _ = canvases(halves / "test", whole)
    one, other, half = (
        model.detector.score(tests).image for model in (whole, after, model_of(halves, "one"))
    )
    assert np.abs(other / one - 1).max() < 0.15
    assert np.abs(other - one).mean() < np.abs(half - one).mean()


def test_how_many_can_be_said(halves, tmp_path):
    _, told = update(halves, tmp_path / "few", "--entries", 3)
    assert told["entries_added"] == 3
    command = ("bank", "update", halves / "models" / "one", halves / "two", "--out", tmp_path / "x")
    for options, expected in (
        (("--entries", 9999), "--entries is more than can be added (expected at most 960"),
        (("--entries", 3, "--coreset", 0.1), "both say how many"),
        (("--outlier-factor", 0.5), "--outlier-factor out of range"),
    ):
        assert expected in invoke_det(*command, *options, exit_code=2).output
    assert not (tmp_path / "x").exists()


def test_a_bank_of_a_stated_size_stays_within_it(halves):
    detector = model_of(halves, "one").detector
    assert len(detector.bank) == 48
    share = detector.config.coreset_ratio
    for most, entries, ratio, expected in (
        (None, None, None, 48), (None, None, 0.01, 10), (None, 7, None, 7), (50, None, None, 2),
        (50, 2, None, 2), (99, None, None, 48),
    ):  # fmt: skip
        detector.config = replace(detector.config, coreset_max=most)
        assert new_entries(detector, 960, entries, ratio) == expected
    assert detector.config.coreset_ratio == share
    for most, entries, ratio, expected in (
        (50, 3, None, "expected at most 2, got 3"),
        (48, None, None, "the bank is full"),
        (48, 1, None, "the bank is full"),
        (None, None, 2.0, "coreset ratio out of range"),
    ):
        detector.config = replace(detector.config, coreset_max=most)
        with pytest.raises((ConfigError, ModelError), match=expected):
            new_entries(detector, 960, entries, ratio)


# ---- scores and thresholds ----------------------------------------------------------------------


def test_thresholds_from_new_scores_and_old_bounds(halves, updated):
    before, (after, told) = model_of(halves, "one"), updated
    new = scores_without_own(after, canvases(halves / "two", after)[0], 8)
    both = np.concatenate([before.calibration.image, new[:, 0]])
    assert np.allclose(after.calibration.image, np.sort(both), rtol=1e-5)
    maxima = np.concatenate([before.calibration.map_maximum, new[:, 1]])
    assert np.allclose(after.calibration.map_maximum, np.sort(maxima), rtol=1e-5)
    assert after.image_threshold == fit_threshold(after.calibration.image, 0.01)
    assert after.score_bounds == told["score_bounds"] == 8
    assert after.calibration.source == before.calibration.source == "training"
    # Before: all new images, none of which the bank held.
    first = scores_without_own(before, canvases(halves / "two", after)[0], 8)[:, 0]
    assert len(told["exceeding"]) == (first > before.image_threshold.value).sum()
    assert told["exceeding_after"] == (new[:, 0] > after.image_threshold.value).sum()
    assert (told["before"]["n"], told["after"]["n"]) == (8, 16)


@pytest.mark.parametrize("way", ["--set", "--data"])
def test_thresholds_are_exact_where_the_normals_are_given(halves, updated, tmp_path, way):
    given = halves / "sets" / "one" if way == "--set" else halves / "one"
    exact, told = update(halves, tmp_path, way, given)
    bounds, _ = updated
    before = model_of(halves, "one")
    old = scores_without_own(exact, canvases(halves / "one", exact)[0], 0, before=before)
    new = scores_without_own(exact, canvases(halves / "two", exact)[0], 8)
    expected = np.sort(np.concatenate([old, new])[:, 0])
    assert np.allclose(exact.calibration.image, expected, rtol=1e-5)
    assert told["score_bounds"] == exact.score_bounds == 0
    assert torch.equal(exact.detector.bank.features, bounds.detector.bank.features)
    # What stands for the old scores is never below them.
    assert (exact.calibration.image <= bounds.calibration.image * (1 + 1e-6)).all()
    assert (exact.calibration.map_maximum <= bounds.calibration.map_maximum * (1 + 1e-6)).all()
    assert exact.image_threshold.value <= bounds.image_threshold.value


@pytest.mark.slow
def test_held_out_images_stay_the_ones_that_count(halves, tmp_path):
    fitted = halves / "models" / "held-out"
    invoke_det(
        "fit", halves / "sets" / "one", "--out", fitted, "--updates", 1, "--batch", 2,
        "--hold-out", 0.4, "--coreset", 0.05, "--quiet",
    )  # fmt: skip
    before = load_model(fitted / "part")
    exact, _ = update(halves, tmp_path / "e", "--set", halves / "sets" / "one", model="held-out")
    assert len(before.calibration) == 4 and exact.calibration.source == "held-out"
    assert (len(exact.calibration), exact.score_bounds) == (12, 0)
    images, digests = canvases(halves / "one", exact)
    counted = held_out(digests, 0.4, 0)
    old = scores_without_own(exact, images, 0, before=before)[counted, 0]
    new = scores_without_own(exact, canvases(halves / "two", exact)[0], 8)[:, 0]
    assert np.allclose(exact.calibration.image, np.sort(np.concatenate([old, new])), rtol=1e-5)


@pytest.mark.slow
def test_an_update_of_an_update(halves, updated, tmp_path):
    source = halves / "models" / "updated"
    more = sorted((halves / "test").glob("good-*.png"))
    result = invoke_det(
        "bank", "update", source, *more, "--out", tmp_path, "--allow-outliers", "--json",
        "--quiet",
    )  # fmt: skip
    (told,) = json.loads(result.stdout)
    model = load_model(tmp_path / "part")
    assert (told["images"], model.added_normals, len(model.normals)) == (2, 10, 18)
    assert model.score_bounds == 16 and verify_model(tmp_path / "part") == []
    # The set holds the first eight alone; both folders together are --data of one root.
    args = ("bank", "update", source, *more, "--out", tmp_path / "e", "--allow-outliers", "--quiet")
    result = invoke_det(*args, "--set", halves / "sets" / "one", exit_code=1)
    assert "which is not in the set" in result.output and not (tmp_path / "e").exists()
    assert "all of these scores exact" in invoke_det(*args, "--data", halves / "all").stdout


@pytest.mark.slow
def test_a_recalibrated_model_keeps_the_scores_of_its_images_as_bounds(halves, tmp_path):
    good = sorted((halves / "test").glob("good-*.png"))
    invoke_det("recalibrate", halves / "models" / "one", *good, "--out", tmp_path / "r", "--quiet")
    before = load_model(tmp_path / "r" / "part")
    invoke_det(
        "bank", "update", tmp_path / "r", halves / "two", *good, "--out", tmp_path / "u",
        "--allow-outliers", "--set", halves / "sets" / "one", "--quiet",
    )  # fmt: skip
    after = load_model(tmp_path / "u" / "part")
    # Its images count once: in the thresholds, and not in the bank.
    assert (len(after.calibration), after.score_bounds, after.added_normals) == (10, 2, 8)
    assert after.calibration.source == before.calibration.source == "others"


def test_recalibrating_an_updated_model_leaves_no_bound(halves, updated, tmp_path):
    assert updated[0].score_bounds == 8
    good = sorted((halves / "test").glob("good-*.png"))
    invoke_det("recalibrate", halves / "models" / "updated", *good, "--out", tmp_path, "--quiet")
    assert verify_model(tmp_path / "part") == []
    again = load_model(tmp_path / "part")
    assert (len(again.calibration), again.score_bounds, again.added_normals) == (2, 0, 8)


def test_recalibrating_leaves_out_images_of_the_fit_in_other_files(halves, tmp_path):
    for path in (halves / "one" / "part").glob("*.png"):
        Image.open(path).save(tmp_path / f"{path.stem}.bmp")
    result = invoke_det(
        "recalibrate", halves / "models" / "one", tmp_path, "--out", tmp_path / "r", exit_code=1
    )
    assert "too few good images that the model has not seen" in result.output
    good = sorted((halves / "test").glob("good-*.png"))
    result = invoke_det(
        "recalibrate", halves / "models" / "one", tmp_path, *good, "--out", tmp_path / "r",
        "--json", "--quiet",
    )  # fmt: skip
    (told,) = json.loads(result.stdout)
    assert (told["images"], told["seen"]) == (2, 8)


def test_reweighted_scores_are_no_bounds(halves, tmp_path):
    model = model_of(halves, "one")
    config = replace(model.config, reweight=True)
    save_model(tmp_path / "part", replace(model, config=config))
    options = {"outlier_factor": 1e9}
    with pytest.raises(ModelError, match="no bounds"):
        update_bank(tmp_path / "part", [halves / "two"], tmp_path / "u", **options)
    with NegativeSet.open(halves / "sets" / "one" / "part") as given:
        done = update_bank(
            tmp_path / "part", [halves / "two"], tmp_path / "u", negative_set=given, **options
        )
    assert done.score_bounds == 0


# ---- what is refused ----------------------------------------------------------------------------


def test_repeats_are_named_and_left_out(halves, updated, tmp_path):
    copy = tmp_path / "copy.png"
    shutil.copy(next((halves / "two").rglob("*.png")), copy)
    result = invoke_det(
        "bank", "update", halves / "models" / "one", halves / "one", halves / "two", copy,
        "--out", tmp_path / "u", "--quiet",
    )  # fmt: skip
    after, (expected, _) = load_model(tmp_path / "u" / "part"), updated
    assert torch.equal(after.detector.bank.features, expected.detector.bank.features)
    for path in [*(halves / "one").rglob("*.png")]:
        assert f"left out {path}" in result.stderr
    assert result.stderr.count("left out") == 9 and "8 images added, 9 repeats" in result.stdout
    result = invoke_det(
        "bank", "update", halves / "models" / "one", halves / "one", "--out", tmp_path / "x",
        exit_code=1,
    )  # fmt: skip
    assert "no image that the model has not seen (got 8 that are" in result.output
    assert not (tmp_path / "x").exists()


def test_what_looks_like_a_defect_is_refused_by_name(halves, tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(96, 80, 3), dtype=np.uint8)
    write_png(tmp_path / "scrap.png", noise)
    command = (
        "bank", "update", halves / "models" / "one", halves / "two", tmp_path / "scrap.png",
        "--out", tmp_path / "u", "--quiet",
    )  # fmt: skip
    result = invoke_det(*command, exit_code=1)
    assert "1 of 9 images look like defects: scrap.png" in result.output
    assert "cutswap-det explain" in result.output and not (tmp_path / "u").exists()
    result = invoke_det(*command, "--allow-outliers")
    assert "scrap.png: looks like a defect, and was added" in result.stderr
    # The highest first; of the others some may exceed it as well.
    assert re.search(r" \d of 9 new images exceeded the threshold \(scrap\.png[,)]", result.stdout)
    assert load_model(tmp_path / "u" / "part").added_normals == 9


def test_an_image_that_cannot_be_read_stops_it(halves, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    result = invoke_det(
        "bank", "update", halves / "models" / "one", halves / "two", tmp_path / "broken.png",
        "--out", tmp_path / "u", "--quiet", exit_code=1,
    )  # fmt: skip
    assert "broken.png" in result.output and "1 unusable image" in result.output
    assert not (tmp_path / "u").exists()


def test_nothing_is_replaced_unasked(halves, updated, tmp_path):
    shutil.copytree(halves / "models" / "one", tmp_path / "m")
    before = file_digest(tmp_path / "m" / "part" / "model.json")
    command = ("bank", "update", tmp_path / "m", halves / "two", "--quiet", "--out")
    result = invoke_det(*command, tmp_path / "m", "--overwrite", exit_code=1)
    assert "is the model itself" in result.output
    assert file_digest(tmp_path / "m" / "part" / "model.json") == before
    other = halves / "models" / "updated"
    assert "already holds a model" in invoke_det(*command, other, exit_code=1).output
    result = invoke_det("fit", halves / "sets" / "one", "--out", other, *OPTIONS, exit_code=1)
    assert "already holds a model to which normals were added" in result.output


def test_too_many_images_at_once(halves, tmp_path, monkeypatch):
    monkeypatch.setattr(PatchCore, "fits", lambda detector, images: False)
    result = invoke_det(
        "bank", "update", halves / "models" / "one", halves / "two", "--out", tmp_path / "u",
        exit_code=1,
    )  # fmt: skip
    assert "the memory budget does not hold" in result.output and "a part of them" in result.output


def test_a_model_of_version_5_is_brought_up_by_its_set(halves, updated, tmp_path):
    shutil.copytree(halves / "models" / "one", tmp_path / "m")
    make_version_5(tmp_path / "m" / "part")
    command = ("bank", "update", tmp_path / "m", halves / "two", "--out", tmp_path / "u")
    result = invoke_det(*command, exit_code=1)
    assert "of version 5" in result.output and "--set" in result.output
    invoke_det(*command, "--set", halves / "sets" / "one", "--quiet")
    after, (expected, _) = load_model(tmp_path / "u" / "part"), updated
    assert after.normals == expected.normals
    for name, tensor in expected.detector.state().items():
        assert torch.equal(tensor, after.detector.state()[name])


def test_coverage_counts_own_entries(halves, updated):
    after, told = updated
    training = after.detector.collect(_Batches(canvases(halves / "two", after)[0]))
    _, _, coverage = leave_one_out(after.detector, training, first_image=8, blocks=1)
    assert coverage.radius == pytest.approx(told["coverage_after"]["radius"], rel=1e-4)


class _Batches:
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self):
        for image in self.images:
            yield image[None], [(0, 0, *image.shape[:2])]
