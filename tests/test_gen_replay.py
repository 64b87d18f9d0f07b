"""Replay: the same set from the same images, wherever they lie, or all that stands in the way."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from PIL import Image

import generator.replay_unit
from generator.replay import replay_set
from generator.source_index import find_sources
from generator.stored_saliency import StoredSaliency
from manifests.digest import array_digest, file_digest
from manifests.errors import BadImages, ConfigError, DataError, DigestError, ImageError, SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import read_recipe, write_recipe
from manifests.schema import read_manifest, set_digest_of, write_manifest
from manifests.shard import Shard, write_shard
from manifests.verify import verify_set
from reference.recipe import photo_set, photos

N_IMAGES, PER_SHARD = 7, 3


@dataclasses.dataclass(frozen=True)
class Original:
    """A set, its images and its recipe."""

    folder: Path
    data: Path
    recipe: Path
    manifest: object
    digest: str


def original(root: Path, **options) -> Original:
    data = root / "data" / "parts"
    sources = photos(data, N_IMAGES, suffix=options.pop("suffix", ".png"))
    folder, recipe = root / "parts", root / "parts.recipe"
    manifest, digest = photo_set(folder, data, sources, per_shard=PER_SHARD, **options)
    with NegativeSet.open(folder) as negative_set:
        write_recipe(recipe, negative_set, with_donors=True)
    return Original(folder, data, recipe, manifest, digest)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Original:
    """Seven images in three shards; each shard's blends need a normal of another shard."""
    return original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def replayed(parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("replayed")
    return replay_set(parts.recipe, parts.data, out).folder


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in folder.iterdir()}


def drifting(monkeypatch, *numbers: int):
    """Makes the fitted pixels of images differ by one grey level, as another decoder might."""
    fit = generator.replay_unit.fit_image
    seen: dict[str, int] = {}

    def fit_otherwise(image, geometry):
        canvas, placement = fit(image, geometry)
        number = seen.setdefault(array_digest(canvas), len(seen))
        if number in numbers:
            y, x = placement.canvas_box[:2]
            canvas[y + 1, x + 1, 0] ^= 1
        return canvas, placement

    monkeypatch.setattr(generator.replay_unit, "fit_image", fit_otherwise)


# --- the same set -----------------------------------------------------------------------------


def test_bit_for_bit_but_for_the_saliency(parts, replayed):
    manifest, digest = read_manifest(replayed)
    old = parts.manifest
    assert manifest.content_digest == old.content_digest
    assert [one.content_digest for one in manifest.shards] == [
        one.content_digest for one in old.shards
    ]
    assert verify_set(replayed) == []
    assert (manifest.saliency, digest != parts.digest) == ("absent", True)
    assert manifest.origin == {"command": "replay", "sets": [parts.digest], "options": {}}
    assert manifest.recipe == old.recipe and manifest.counts == old.counts
    assert manifest.training_files == old.training_files
    assert manifest.versions["pillow"] != old.versions["pillow"] and manifest.versions["libjpeg"]
    with NegativeSet.open(parts.folder) as a, NegativeSet.open(replayed) as b:
        assert len(a) == len(b) == 21 and a.n_normals == b.n_normals == N_IMAGES
        for j in range(len(a)):
            one, other = a[j], b[j]
            assert np.array_equal(one.image, other.image)
            assert np.array_equal(one.mask, other.mask)
            assert one.edits == other.edits and one.digest == other.digest
        for i in range(N_IMAGES):
            assert np.array_equal(a.normal(i).image, b.normal(i).image)
            assert a.normal(i).source == b.normal(i).source


def test_without_saliency_nothing_is_absent(tmp_path):
    free = original(tmp_path, has_saliency=False, donor="", store="anchors")
    summary = replay_set(free.recipe, free.data, tmp_path / "out")
    assert (summary.manifest.saliency, summary.manifest.recipe["store"]) == ("unused", "anchors")
    # Nothing is missing then, so the shards' digests are all those of the original.
    assert summary.manifest.saliency_digest == free.manifest.saliency_digest
    assert summary.manifest.content_digest == free.manifest.content_digest


def test_stores(parts, replayed, tmp_path):
    summary = replay_set(parts.recipe, parts.data, tmp_path, store="anchors")
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert summary.manifest.recipe == {**parts.manifest.recipe, "store": "anchors"}
    assert verify_set(summary.folder) == []
    assert summary.disk_bytes < sum(path.stat().st_size for path in replayed.iterdir())
    with pytest.raises(ConfigError, match="--store"):
        replay_set(parts.recipe, parts.data, tmp_path, store="png")


def test_workers_and_an_interruption_change_no_byte(parts, replayed, tmp_path, monkeypatch):
    replay_set(parts.recipe, parts.data, tmp_path / "two", jobs=2)
    assert files_of(tmp_path / "two" / "parts") == files_of(replayed)

    write, written = generator.replay_unit.write_shard, []

    def write_one_and_stop(path, *rows, **options):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *rows, **options)

    monkeypatch.setattr(generator.replay_unit, "write_shard", write_one_and_stop)
    with pytest.raises(KeyboardInterrupt):
        replay_set(parts.recipe, parts.data, tmp_path)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["shard-00000.h5"]
    monkeypatch.undo()
    summary = replay_set(parts.recipe, parts.data, tmp_path)
    assert (summary.resumed_shards, summary.fresh_images) == (1, N_IMAGES - PER_SHARD)
    assert files_of(tmp_path / "parts") == files_of(replayed)


def test_a_recipe_of_a_replay_replays_to_the_same_content(parts, replayed, tmp_path):
    with NegativeSet.open(replayed) as negative_set:
        write_recipe(tmp_path / "again.recipe", negative_set)
    summary = replay_set(tmp_path / "again.recipe", parts.data, tmp_path / "out")
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert summary.manifest.saliency == "absent"
    # Shards know what they were rendered from, so the files differ in that alone.
    assert summary.recipe_digest == read_manifest(replayed)[1]


def test_foreign_donors_come_with_the_recipe(tmp_path):
    lent = original(tmp_path, donor="foreign")
    summary = replay_set(lent.recipe, lent.data, tmp_path / "out")
    assert summary.manifest.content_digest == lent.manifest.content_digest
    assert verify_set(summary.folder) == []


# --- where the images are ---------------------------------------------------------------------


def test_category_folder_root_and_moved_images(parts, tmp_path):
    assert replay_set(parts.recipe, parts.data, tmp_path / "a").moved_images == 0
    assert replay_set(parts.recipe, parts.data.parent, tmp_path / "b").moved_images == 0
    elsewhere = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(parts.data.rglob("*.png"))):
        target = elsewhere / f"box {number % 2}" / f"renamed-{number}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(target, elsewhere / "a-copy-of-it.png")
    summary = replay_set(parts.recipe, elsewhere, tmp_path / "c")
    assert summary.moved_images == N_IMAGES
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert files_of(tmp_path / "c" / "parts") == files_of(tmp_path / "a" / "parts")


def test_all_that_is_missing_or_differs_is_listed_and_nothing_written(parts, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(parts.data, data)
    good = data / "train" / "good"
    (good / "001.png").unlink()
    Image.new("RGB", (60, 60), (9, 8, 7)).save(good / "004.png")
    (good / "005.png").write_bytes(b"")
    (good / "006.png").rename(good / "another.png")  # found all the same
    with pytest.raises(BadImages, match=r"3 unusable images.*--data") as caught:
        replay_set(parts.recipe, data, tmp_path / "out")
    listed = sorted(map(str, caught.value.errors))
    assert ["001.png: is missing" in listed[0], "004.png: is another" in listed[1]] == [True, True]
    assert "005.png: is another" in listed[2] and len(listed) == 3
    assert not (tmp_path / "out").exists()
    for missing in (tmp_path / "no", parts.recipe):
        with pytest.raises(DataError):
            replay_set(parts.recipe, missing, tmp_path / "out")


def test_a_recorded_path_does_not_lead_out_of_the_data(parts, tmp_path):
    """A link out is not opened because a recipe says so; by its digest it may be found."""
    (tmp_path / "data").mkdir()
    os.symlink(parts.data / "train", tmp_path / "data" / "train")
    recipe = read_recipe(parts.recipe)
    normals = [row for shard in recipe.shards for row in shard.normals]
    found = find_sources(normals, tmp_path / "data", "parts", max_pixels=10**6)
    assert found.moved == N_IMAGES
    up = dataclasses.replace(normals[0], source="../" + normals[0].source, file_sha256="0" * 64)
    with pytest.raises(BadImages) as caught:
        find_sources([up], parts.data / "train", "parts", max_pixels=10**6)
    assert "is missing" in str(caught.value.errors[0])


def test_no_file_is_read_twice_to_find_it(parts, monkeypatch):
    import generator.source_index

    read, seen = generator.source_index.read_bytes, []

    def read_once(path, **options):
        seen.append(path)
        return read(path, **options)

    monkeypatch.setattr(generator.source_index, "read_bytes", read_once)
    recipe = read_recipe(parts.recipe)
    normals = [row for shard in recipe.shards for row in shard.normals]
    find_sources(normals[:2], parts.data, "parts", max_pixels=10**6)
    assert len(seen) == 2  # the recorded paths alone
    with pytest.raises(BadImages):
        absent = dataclasses.replace(normals[0], file_sha256="0" * 64)
        find_sources([absent], parts.data, "parts", max_pixels=10**6)
    assert len(seen) == 2 + N_IMAGES


# --- drift ------------------------------------------------------------------------------------


def test_equal_file_other_pixels_names_the_decoders(parts, tmp_path, monkeypatch):
    drifting(monkeypatch, 1)
    with pytest.raises(ImageError, match="other pixels here") as caught:
        replay_set(parts.recipe, parts.data, tmp_path)
    error = caught.value
    assert error.path.endswith(".png") and "--allow-drift" in error.hint
    assert error.expected == "Pillow 9.0.0, libjpeg unknown, OpenCV 4.1.2"
    assert "OpenCV" in error.got and "unknown" not in error.got
    assert not (tmp_path / "parts" / "manifest.json").exists()


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

    def fit_alike(image, geometry):
        canvas, placement = fit(image, geometry)
        return np.where(canvas < 255, np.uint8(7), canvas), placement

    monkeypatch.setattr(generator.replay_unit, "fit_image", fit_alike)
    with pytest.raises(SetError, match=r"alike|twice"):
        replay_set(parts.recipe, parts.data, tmp_path, allow_drift=True)
    assert not (tmp_path / "parts" / "manifest.json").exists()


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
from manifests.geometry import FITS, Geometry, fit_image
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


# --- what is refused --------------------------------------------------------------------------


def test_expected_digest(parts, tmp_path):
    replay_set(parts.recipe, parts.data, tmp_path / "a", expect=parts.digest)
    with pytest.raises(DigestError, match="another set than expected"):
        replay_set(parts.recipe, parts.data, tmp_path / "b", expect="0" * 64)
    assert not (tmp_path / "b").exists()


def test_what_is_there_already(parts, replayed, tmp_path):
    shutil.copytree(replayed, tmp_path / "parts")
    summary = replay_set(parts.recipe, parts.data, tmp_path)
    assert summary.is_unchanged and summary.fresh_images == 0
    with pytest.raises(SetError, match="already holds another set"):
        replay_set(parts.recipe, parts.data, tmp_path, store="anchors")
    (tmp_path / "parts" / "shard-00001.h5").unlink()
    with pytest.raises(SetError, match=r"shard-00001.h5 is missing"):
        replay_set(parts.recipe, parts.data, tmp_path)
    shutil.copytree(parts.folder, tmp_path / "other" / "parts")
    with pytest.raises(SetError, match=r"already holds another set.*got build"):
        replay_set(parts.recipe, parts.data, tmp_path / "other")
    again = replay_set(parts.recipe, parts.data, tmp_path / "other", overwrite=True)
    assert files_of(again.folder) == files_of(replayed)


def test_a_recipe_of_wrong_negatives_makes_no_set(parts, tmp_path):
    """Its digests agree with each other; only rendering can tell."""
    folder = tmp_path / "forged"
    shutil.copytree(parts.folder, folder)
    name = "shard-00000.h5"
    with Shard(folder / name) as shard:
        normals = [shard.normal(i) for i in range(shard.n_normals)]
        negatives = [shard.negative(j) for j in range(shard.n_negatives)]
        donors = {digest: shard.donor(digest) for digest in shard.index.donor_digests}
        unit_digest = shard.index.unit_digest
    negatives[1] = dataclasses.replace(negatives[1], digest="0" * 64)
    entry = write_shard(
        folder / name, normals, negatives, donors=donors, store="pixels", unit_digest=unit_digest,
        check_pixels=False,
    )  # fmt: skip
    manifest, _ = read_manifest(folder)
    shards = (entry, *manifest.shards[1:])
    write_manifest(
        folder,
        dataclasses.replace(
            manifest, shards=shards, content_digest=set_digest_of(s.content_digest for s in shards)
        ),
    )
    with NegativeSet.open(folder) as negative_set:
        write_recipe(tmp_path / "forged.recipe", negative_set)
    for options in ({}, {"allow_drift": True}):
        with pytest.raises(DigestError, match=r"shard-00000.h5: scar, level 10, repeat 0 of"):
            replay_set(tmp_path / "forged.recipe", parts.data, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "parts" / "manifest.json").exists()


def test_what_needs_saliency_says_that_it_is_absent(parts, replayed):
    with NegativeSet.open(replayed) as negative_set:
        for read in (negative_set.saliency, negative_set.centres):
            with pytest.raises(SetError, match=r"saliency: absent.*cutswap-gen build"):
                read(0, 4)
        assert negative_set.levels == ()
    with NegativeSet.open(parts.folder) as negative_set:
        assert negative_set.saliency(0, 4).shape == (2, 3)
    stored = StoredSaliency.open(replayed, "parts")
    with pytest.raises(ConfigError, match=r"saliency: absent"):
        stored.check_recipe({**parts.manifest.recipe})


def test_preview_draws_the_rest(replayed):
    from generator.preview import preview_sheet

    with NegativeSet.open(replayed) as negative_set:
        picture = preview_sheet(negative_set, 0)
    assert picture.ndim == 3 and picture.dtype == np.uint8 and len(np.unique(picture)) > 50


def test_no_network_and_no_torch(parts, replayed, tmp_path):
    """Neither a socket nor a neural network, from the import to the manifest."""
    code = (
        "import sys\n"
        "def refuse(event, _):\n"
        "    assert not event.startswith('socket.'), event\n"
        "sys.addaudithook(refuse)\n"
        "from generator.replay import replay_set\n"
        "from manifests.recipe import recipe_problems, dump_recipe\n"
        "summary = replay_set(*sys.argv[1:4])\n"
        "assert recipe_problems(sys.argv[1]) == [] and list(dump_recipe(sys.argv[1]))\n"
        "heavy = {'torch', 'timm', 'sklearn', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "print(summary.set_digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, parts.recipe, parts.data, tmp_path],
        env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == read_manifest(replayed)[1]


def test_words_and_json(parts, replayed):
    from generator.describe_recipe import (
        describe_export,
        describe_recipe,
        describe_replay,
        export_json,
        recipe_json,
        replay_json,
    )
    from manifests.recipe import RecipeSummary

    summary = replay_set(parts.recipe, parts.data, replayed.parent)
    lines = describe_replay(summary)
    assert "already replayed" in lines[0] and "saliency: absent" in "\n".join(lines)
    assert json.loads(json.dumps(replay_json(summary)))["replay_of"] == parts.digest
    drifted = dataclasses.replace(summary, drifted_images=2, moved_images=3, is_unchanged=False)
    text = "\n".join(describe_replay(drifted))
    assert "2 images have other pixels" in text and "3 images found elsewhere" in text
    exported = RecipeSummary(4096, 20_000, 8, 80, parts.digest, "0" * 64)
    assert "4.0 KB, 0.50 KB per image" in describe_export(parts.recipe, exported)[0]
    assert export_json(parts.recipe, exported)["bytes"] == 4096
    recipe = read_recipe(parts.recipe)
    assert f"  set digest {parts.digest}" in describe_recipe(parts.recipe, recipe)
    assert recipe_json(parts.recipe, recipe)["category"] == "parts"
