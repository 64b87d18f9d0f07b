"""The whole of `build`: resuming, equal bytes, refusals, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from conftest import IMAGE_SIZE, invoke_gen

from manifests import manifest_json
from manifests.digest import file_digest
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from reference.interruptions import kill_build_after_one_shard


def digests(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of everything that belongs to a set; the log belongs to no digest."""
    return {p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.name != "build.log"}


def build(data: Path, out: Path, *more: object, exit_code: int = 0):
    return invoke_gen(
        "build", data, "--out", out, "--image-size", IMAGE_SIZE, "--shard-images", 4, "--jobs", 1,
        "--quiet", *more, exit_code=exit_code,
    )  # fmt: skip


def good_photos(folder: Path, count: int = 4, *, side: int = 64) -> Path:
    """A plain folder of textured images that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        noise = rng.integers(0, 255, (side // 8, side // 8 + 1, 3), dtype=np.uint8)
        image = cv2.resize(noise, (side + 8, side), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"photo {index}.png"), image)
    return folder


def test_two_workers_give_the_bytes_of_one(sample_data, built, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path, "--image-size", IMAGE_SIZE, "--shard-images", 4,
        "--jobs", 2, "--quiet",
    )  # fmt: skip
    assert digests(tmp_path / category_name) == digests(built / category_name)


def test_names_and_order_of_files_change_no_negative(sample_data, built, category_name, tmp_path):
    renamed = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, renamed)
    good = renamed / "train" / "good"
    for index, path in enumerate(sorted(good.iterdir(), reverse=True)):
        path.rename(good / f"renamed-{index}.png")
    build(renamed, tmp_path / "out")
    with (
        NegativeSet.open(built / category_name) as one,
        NegativeSet.open(tmp_path / "out" / category_name) as other,
    ):
        assert [negative.digest for negative in one] == [negative.digest for negative in other]
        assert one.normal(0).source != other.normal(0).source


def test_a_second_run_does_nothing_and_says_so(sample_data, built, category_name):
    before = digests(built / category_name)
    shard = built / category_name / "shard-00000.h5"
    written = shard.stat().st_mtime_ns
    result = build(sample_data, built)
    assert "nothing to do" in result.output
    assert digests(built / category_name) == before
    assert shard.stat().st_mtime_ns == written


def test_a_changed_option_needs_overwrite(sample_data, built, category_name, tmp_path):
    shutil.copytree(built, tmp_path / "out")
    before = digests(tmp_path / "out" / category_name)
    result = build(sample_data, tmp_path / "out", "--seed", 1, exit_code=1)
    assert "--overwrite" in result.output and "seed" in result.output
    assert digests(tmp_path / "out" / category_name) == before
    build(sample_data, tmp_path / "out", "--seed", 1, "--overwrite")
    manifest, _ = read_manifest(tmp_path / "out" / category_name)
    assert manifest.recipe["seed"] == 1
    assert digests(tmp_path / "out" / category_name) != before


def test_changed_images_need_overwrite(tmp_path):
    data = good_photos(tmp_path / "photos", 3)
    build(data, tmp_path / "out")
    cv2.imwrite(str(data / "new.png"), np.random.default_rng(9).integers(0, 255, (64, 64, 3)))
    result = build(data, tmp_path / "out", exit_code=1)
    assert "other images" in result.output and "--overwrite" in result.output


def test_an_unfinished_build_of_other_options_is_not_mixed_in(
    sample_data, built, category_name, tmp_path
):
    folder = tmp_path / "out" / category_name
    shutil.copytree(built / category_name, folder)
    (folder / "manifest.json").unlink()
    result = build(sample_data, tmp_path / "out", "--seed", 1, exit_code=1)
    assert "unfinished build" in result.output
    assert (folder / "shard-00000.h5").exists()


def test_a_damaged_leftover_shard_is_built_again(sample_data, built, category_name, tmp_path):
    folder = tmp_path / "out" / category_name
    shutil.copytree(built / category_name, folder)
    (folder / "manifest.json").unlink()
    shard = folder / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:1000])
    build(sample_data, tmp_path / "out")
    assert digests(folder) == digests(built / category_name)


def test_anchors_store_renders_the_pixels_of_the_pixels_store(
    sample_data, built, category_name, tmp_path
):
    build(sample_data, tmp_path, "--store", "anchors")
    with (
        NegativeSet.open(built / category_name) as pixels,
        NegativeSet.open(tmp_path / category_name) as anchors,
    ):
        assert len(pixels) == len(anchors) > 0
        for j in range(len(pixels)):
            np.testing.assert_array_equal(pixels[j].image, anchors[j].image)
            np.testing.assert_array_equal(pixels[j].mask, anchors[j].mask)
            assert pixels[j].digest == anchors[j].digest
        assert pixels.manifest.content_digest == anchors.manifest.content_digest
    size = sum(p.stat().st_size for p in (tmp_path / category_name).glob("*.h5"))
    full = sum(p.stat().st_size for p in (built / category_name).glob("*.h5"))
    assert size < full / 4


def test_killed_build_resumes_to_equal_bytes(sample_data, built, category_name, tmp_path):
    out = tmp_path / "out"
    folder = out / category_name
    options = ("--image-size", IMAGE_SIZE, "--shard-images", 4, "--quiet")
    kill_build_after_one_shard([sample_data, "--out", out, *options], folder)
    (folder / ".shard-00001.h5.tmp-123").write_bytes(b"half written")
    result = build(sample_data, out)
    assert "taken over" in result.output
    assert digests(folder) == digests(built / category_name)


def test_bad_images_are_all_listed_and_nothing_is_written(tmp_path):
    data = good_photos(tmp_path / "photos", 3)
    (data / "empty.png").write_bytes(b"")
    (data / "text.jpg").write_text("not an image")
    whole = (data / "photo 0.png").read_bytes()
    (data / "cut.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(data / "flat.png"), np.full((64, 64, 3), 90, np.uint8))
    cv2.imwrite(str(data / "tiny.png"), np.zeros((4, 5, 3), np.uint8))
    result = build(data, tmp_path / "out", exit_code=1)
    for name in ("empty.png", "text.jpg", "cut.png", "flat.png", "tiny.png"):
        assert name in result.output
    assert "--skip-bad" in result.output
    assert not list((tmp_path / "out").rglob("*.h5"))
    assert not list((tmp_path / "out").rglob("manifest.json"))

    result = build(data, tmp_path / "out", "--skip-bad")
    manifest, _ = read_manifest(tmp_path / "out" / "photos")
    assert manifest.counts["normals"] == 3
    assert {entry["source"] for entry in manifest.skipped} == {
        "empty.png", "text.jpg", "cut.png", "flat.png", "tiny.png",
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "out" / "photos" / "manifest.json").read_text()


def test_pixel_limit_is_an_option(tmp_path):
    data = good_photos(tmp_path / "photos", 3, side=128)
    result = build(data, tmp_path / "out", "--max-megapixels", 0.01, exit_code=1)
    assert "3 unusable images" in result.output


def test_too_few_images(tmp_path):
    data = good_photos(tmp_path / "photos", 1)
    result = build(data, tmp_path / "out", exit_code=1)
    assert "too few" in result.output


def test_more_images_than_a_manifest_holds_are_told_before_any_is_used(tmp_path, monkeypatch):
    images, shard = manifest_json._IMAGE_BYTES, manifest_json._SHARD_BYTES
    whole = manifest_json._SPARE_BYTES + 4 * images + shard
    data = good_photos(tmp_path / "part", 4)
    monkeypatch.setattr(manifest_json, "MAX_MANIFEST_BYTES", whole - 1)
    result = build(data, tmp_path / "out", exit_code=1)
    assert "4 images are too many for one set (expected at most 3)" in result.stderr
    assert "build parts" in result.stderr and not list(tmp_path.rglob("*.h5"))
    monkeypatch.setattr(manifest_json, "MAX_MANIFEST_BYTES", whole)
    build(data, tmp_path / "out")


def test_room_is_counted_generously(built, category_name):
    manifest = json.loads((built / category_name / "manifest.json").read_bytes())
    for name, bound in (("training_files", "_IMAGE_BYTES"), ("shards", "_SHARD_BYTES")):
        texts = [json.dumps({name: rows}, indent=1) for rows in (manifest[name], [])]
        each = (len(texts[0]) - len(texts[1])) / len(manifest[name])
        assert 0.5 < each / getattr(manifest_json, bound) < 1.0, name


def test_duplicates_are_used_once_and_recorded(tmp_path):
    data = good_photos(tmp_path / "photos", 3)
    shutil.copy(data / "photo 0.png", data / "again.png")
    build(data, tmp_path / "out")
    manifest, _ = read_manifest(tmp_path / "out" / "photos")
    assert manifest.counts["normals"] == 3
    assert manifest.duplicates == 1


def test_unwritable_output_is_named(tmp_path):
    data = good_photos(tmp_path / "photos", 3)
    (tmp_path / "out").write_text("a file where a folder should be")
    result = build(data, tmp_path / "out", exit_code=2)
    assert "out" in result.output


def test_full_disk_leaves_no_half_written_shard(tmp_path, monkeypatch):
    data = good_photos(tmp_path / "photos", 3)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = build(data, tmp_path / "out", exit_code=1)
    assert "No space left" in result.output
    left = [path.name for path in (tmp_path / "out" / "photos").iterdir()]
    assert left == []


def test_letterbox_padding_is_never_touched(tmp_path):
    data = good_photos(tmp_path / "photos", 3, side=64)
    build(data, tmp_path / "out", "--fit", "letterbox", "--image-size", "96x160")
    with NegativeSet.open(tmp_path / "out" / "photos") as negative_set:
        box = negative_set.normal(0).canvas_box
        y, x, h, w = box
        assert (h, w) != (96, 160)
        outside = np.ones((96, 160), bool)
        outside[y : y + h, x : x + w] = False
        for j in range(len(negative_set)):
            assert not (negative_set[j].mask & outside).any()
            assert (negative_set[j].image[outside] == 0).all()


def test_changed_pixels_lie_in_the_mask_and_swaps_conserve_them(built, category_name):
    with NegativeSet.open(built / category_name) as negative_set:
        for j in range(len(negative_set)):
            negative = negative_set[j]
            normal = negative_set.normal(negative.normal).image
            changed = (negative.image != normal).any(axis=2)
            assert changed.any()
            assert not (changed & ~negative.mask).any()
            if negative.policy == "swap":
                before = np.sort(normal.reshape(-1, 3).view("u1,u1,u1"), axis=0)
                after = np.sort(negative.image.reshape(-1, 3).view("u1,u1,u1"), axis=0)
                np.testing.assert_array_equal(before, after)
