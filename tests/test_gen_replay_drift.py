"""Drift: other pixels of equal files are noticed, named, and never mixed with the right ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

import generator.replay_unit
from generator.replay import replay_set
from manifests.digest import array_digest
from manifests.errors import BadImages, ImageError, SetError
from manifests.negative_set import NegativeSet
from manifests.verify import verify_set
from reference.replays import N_IMAGES, Original, files_of, original


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Original:
    return original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def replayed(parts, tmp_path_factory) -> Path:
    return replay_set(parts.recipe, parts.data, tmp_path_factory.mktemp("replayed")).folder


def drifting(monkeypatch, *numbers: int):
    """Makes the fitted pixels of images differ by one grey level, as another decoder might."""
    fit = generator.replay_unit.fit_image
    seen: dict[str, int] = {}

    def fit_otherwise(image, geometry, *, path):
        canvas, placement = fit(image, geometry, path=path)
        number = seen.setdefault(array_digest(canvas), len(seen))
        if number in numbers:
            y, x = placement.canvas_box[:2]
            canvas[y + 1, x + 1, 0] ^= 1
        return canvas, placement

    monkeypatch.setattr(generator.replay_unit, "fit_image", fit_otherwise)


def test_equal_file_other_pixels_names_the_decoders(parts, tmp_path, monkeypatch):
    drifting(monkeypatch, 1)
    with pytest.raises(ImageError, match="other pixels here") as caught:
        replay_set(parts.recipe, parts.data, tmp_path)
    error = caught.value
    assert error.path.endswith(".png") and "--allow-drift" in error.hint
    assert error.expected == "Pillow 9.0.0, libjpeg unknown, OpenCV 4.1.2"
    assert "OpenCV" in error.got and "unknown" not in error.got
    assert not (tmp_path / "parts" / "manifest.json").exists()


def test_equal_versions_are_not_told_to_be_installed(parts, tmp_path, monkeypatch):
    drifting(monkeypatch, 1)
    recorded = {"pillow": "9.0.0", "opencv-python-headless": "4.1.2"}
    monkeypatch.setattr(generator.replay_unit, "decoder_versions", lambda: recorded)
    with pytest.raises(ImageError, match="the same versions, built or run otherwise") as caught:
        replay_set(parts.recipe, parts.data, tmp_path)
    assert "install" not in caught.value.hint and "--allow-drift" in caught.value.hint


def test_drift_is_found_before_a_whole_set_is_replaced(parts, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(parts.folder, tmp_path / "parts"))
    (folder / "build.log").write_text("log")
    before = files_of(folder)
    drifting(monkeypatch, 1, 4)
    with pytest.raises(BadImages, match=r"2 unusable images; .*--allow-drift") as caught:
        replay_set(parts.recipe, parts.data, tmp_path, overwrite=True)
    assert len({error.path for error in caught.value.errors}) == 2
    for error in caught.value.errors:
        assert "other pixels here" in error.what and error.path.endswith(".png")
        assert error.expected and error.got
    assert files_of(folder) == before
    assert verify_set(folder) == []
    again = replay_set(parts.recipe, parts.data, tmp_path, overwrite=True, allow_drift=True)
    assert again.drifted_images == 2 and verify_set(folder) == []


def test_images_of_shards_that_stay_are_not_looked_at_again(parts, replayed, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(replayed, tmp_path / "parts"))
    monkeypatch.setattr(generator.replay_unit, "fit_image", None)
    summary = replay_set(parts.recipe, parts.data, tmp_path, overwrite=True)
    assert summary.resumed_shards == 3
    assert files_of(folder) == files_of(replayed)


def test_allowed_drift_makes_another_set(parts, tmp_path, monkeypatch):
    drifting(monkeypatch, 1, 2)
    summary = replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    manifest = summary.manifest
    assert summary.drifted_images == 2
    assert manifest.origin["options"] == {"drifted_images": 2}
    assert manifest.content_digest != parts.manifest.content_digest
    assert verify_set(summary.folder) == []
    with NegativeSet.open(parts.folder) as a, NegativeSet.open(summary.folder) as b:
        changed = [i for i in range(N_IMAGES) if a.normal(i).digest != b.normal(i).digest]
        assert len(changed) == 2
        for j in range(len(a)):
            one, other = a[j], b[j]
            assert (one.policy, one.level, one.normal) == (other.policy, other.level, other.normal)
            if one.policy != "sgsf":
                assert (one.digest != other.digest) == (one.normal in changed)
                assert one.edits == other.edits
        # Image 2 lends its pixels to the second shard, under the digest it has here.
        lender = a.normal(2).digest
        lent = [j for j in range(len(a)) if getattr(a[j].edits[0], "donor", None) == lender]
        assert 2 in changed and lent
        assert {b[j].edits[0].donor for j in lent} == {b.normal(2).digest}
    again = replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    assert again.is_unchanged and again.drifted_images == 2
    with pytest.raises(SetError, match=r"already holds another set.*--overwrite"):
        replay_set(parts.recipe, parts.data, tmp_path)


def test_drift_allowed_and_none_there(parts, replayed, tmp_path):
    summary = replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    assert summary.drifted_images == 0
    assert files_of(summary.folder) == files_of(replayed)


def test_shards_of_a_drifting_run_are_not_taken_over(parts, replayed, tmp_path, monkeypatch):
    drifting(monkeypatch, 0)
    replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    (tmp_path / "parts" / "manifest.json").unlink()
    monkeypatch.undo()
    summary = replay_set(parts.recipe, parts.data, tmp_path)
    # Shards 0 and 1 hold image 0 or what it lends; only the last one never saw it.
    assert summary.resumed_shards < 3
    assert files_of(tmp_path / "parts") == files_of(replayed)


def test_drift_by_other_libraries_is_not_mixed_in(parts, tmp_path, monkeypatch):
    drifting(monkeypatch, 0)
    replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    (tmp_path / "parts" / "manifest.json").unlink()
    monkeypatch.undo()
    monkeypatch.setattr("generator.replay_leftovers.decoder_versions", lambda: {"pillow": "0"})
    summary = replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    assert summary.drifted_images == 0 and summary.resumed_shards < 3


def test_a_file_that_changes_meanwhile(parts, tmp_path, monkeypatch):
    read = generator.replay_unit.read_bytes
    other = sorted(parts.data.rglob("*.png"))[0].read_bytes()

    def read_other(path, **options):
        return other if path.name == "003.png" else read(path, **options)

    monkeypatch.setattr(generator.replay_unit, "read_bytes", read_other)
    with pytest.raises(ImageError, match=r"003.png: changed while"):
        replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)


def test_images_that_drift_together_are_refused(parts, tmp_path, monkeypatch):
    """Two of different shards, which no single shard would notice."""
    fit = generator.replay_unit.fit_image

    def fit_alike(image, geometry, *, path):
        canvas, placement = fit(image, geometry, path=path)
        return np.where(canvas < 255, np.uint8(7), canvas), placement

    monkeypatch.setattr(generator.replay_unit, "fit_image", fit_alike)
    with pytest.raises(SetError, match=r"alike|twice"):
        replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    assert not (tmp_path / "parts" / "manifest.json").exists()


# --- another OpenCV ---------------------------------------------------------------------------


def other_opencv(code: str, *arguments: object, cwd: Path) -> str:
    """What a Python with the other OpenCV prints."""
    other = os.environ.get("CUTSWAP_OTHER_OPENCV")
    if not other:
        pytest.skip(
            "CUTSWAP_OTHER_OPENCV names no folder; make one with "
            "pip install --target DIR --no-deps opencv-python-headless==4.10.0.84"
        )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([other, str(REPO)])},
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_replay_with_another_opencv(tmp_path):
    """Either the pixels are the same or drift is noticed: never something between."""
    shapes = original(tmp_path, suffix=".jpg")
    code = (
        "import sys, cv2; from generator.replay import replay_set; "
        "s = replay_set(*sys.argv[1:4], allow_drift=True); "
        "print(cv2.__version__, s.drifted_images, s.manifest.content_digest)"
    )
    printed = other_opencv(code, shapes.recipe, shapes.data, tmp_path / "out", cwd=tmp_path)
    version, drifted, content_digest = printed.split()
    import cv2

    assert version != cv2.__version__
    print(f"OpenCV {version} against {cv2.__version__}: {drifted} of {N_IMAGES} images drift")
    assert (int(drifted) == 0) == (content_digest == shapes.manifest.content_digest)
    assert verify_set(tmp_path / "out" / "parts") == []


FITTED = """
import numpy as np
from manifests.digest import array_digest
from manifests.canvas import fit_image
from manifests.geometry import FITS, Geometry
rng = np.random.default_rng(5)
for fit in FITS:
    for number in range(60):
        h, w = (int(side) for side in rng.integers(20, 700, 2))
        height, width = (int(side) for side in rng.integers(32, 400, 2))
        image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        canvas, _ = fit_image(image, Geometry(height, width, fit))
        print(fit, f"{h}x{w} to {height}x{width}", array_digest(canvas))
"""


@pytest.mark.slow
def test_another_opencv_resizes_to_the_same_pixels(tmp_path, capsys):
    """Growing, shrinking, and both at once: the reason why only two interpolations are used."""
    theirs = other_opencv(FITTED, cwd=tmp_path).splitlines()
    capsys.readouterr()
    exec(compile(FITTED, "fitted", "exec"), {})
    ours = capsys.readouterr().out.splitlines()
    differ = [one for one, other in zip(ours, theirs, strict=True) if one != other]
    assert len(ours) == 180 and differ == []
