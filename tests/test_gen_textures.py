"""A folder of textures: what counts as it, which of them a shard gets, what is wrong with it."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from generator import textures as module
from generator.textures import POOL, Textures
from manifests.digest import array_digest, bytes_digest, file_digest
from manifests.errors import BadImages, ConfigError, DataError, ImageError
from manifests.images import Geometry, fit_image, read_image

GEOMETRY = Geometry(40, 56, "letterbox")


def texture_folder(folder, count=20):
    """Textures of several sizes, some in folders below."""
    for number in range(count):
        rng = np.random.default_rng(100 + number)
        shape = (24 + 5 * (number % 7), 30 + 9 * (number % 4), 3)
        path = folder / (f"sub {number % 3}" if number % 2 else "") / f"texture {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), rng.integers(0, 256, shape, dtype=np.uint8))
    return folder


@pytest.fixture
def folder(tmp_path):
    return texture_folder(tmp_path / "textures")


def test_textures_fill_the_canvas_whatever_the_fit_of_the_images(folder):
    found = Textures.open(folder, GEOMETRY)
    assert len(found.images) == found.n_files == 20 and found.skipped == ()
    for texture in found.images:
        expected, placement = fit_image(read_image(texture.path), Geometry(40, 56, "crop"))
        assert placement.canvas_box == (0, 0, 40, 56)
        assert texture.digest == array_digest(expected)
        assert texture.file_sha256 == file_digest(texture.path)
        assert (found.kept[texture.digest] == expected).all()
    files = sorted(file_digest(texture.path) for texture in found.images)
    assert found.recipe() == {
        "images": 20,
        "digest": bytes_digest(b"".join(bytes.fromhex(one) for one in files)),
    }


def test_names_order_copies_and_threads_change_nothing(folder, tmp_path):
    one = Textures.open(folder, GEOMETRY)
    other = tmp_path / "renamed"
    other.mkdir()
    paths = [texture.path for texture in one.images]
    for number, path in enumerate(sorted(paths, reverse=True)):
        shutil.copy(path, other / f"{number:03d}.PNG")
    shutil.copy(paths[0], other / "again.png")
    (other / "notes.txt").write_text("no texture")
    two = Textures.open(other, GEOMETRY, jobs=3)
    assert one.recipe() == two.recipe()
    assert [row.digest for row in one.images] == [row.digest for row in two.images]
    for left, right in zip(one.pool(3, "ab" * 32), two.pool(3, "ab" * 32), strict=True):
        assert (left == right).all()


def test_equal_pixels_in_another_file_are_one_texture(folder):
    before = Textures.open(folder, GEOMETRY)
    path = before.images[0].path
    image = cv2.imread(str(path))
    cv2.imwrite(str(folder / "again.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    after = Textures.open(folder, GEOMETRY)
    assert [one.digest for one in after.images] == [one.digest for one in before.images]
    assert (before.n_files, after.n_files) == (20, 21)
    assert before.files_digest != after.files_digest


def test_a_pool_depends_on_seed_and_first_image_alone(folder):
    textures = Textures.open(folder, GEOMETRY)

    def digests(seed, digest):
        return [array_digest(one) for one in textures.pool(seed, digest)]

    known = {texture.digest for texture in textures.images}
    one = digests(0, "ab" * 32)
    assert len(one) == POOL == 16 and one == sorted(set(one)) and set(one) <= known
    assert one == digests(0, "ab" * 32)
    assert one != digests(1, "ab" * 32) and one != digests(0, "cd" * 32)
    used = set().union(*(digests(0, f"{n:064x}") for n in range(20)))
    assert used == known


def test_fewer_textures_than_a_pool_are_all_used(tmp_path):
    textures = Textures.open(texture_folder(tmp_path / "few", 3), GEOMETRY)
    assert len(textures.pool(0, "ab" * 32)) == 3


def test_what_does_not_stay_in_memory_is_read_again(folder, monkeypatch):
    whole = Textures.open(folder, GEOMETRY)
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * 40 * 56 * 3)
    textures = Textures.open(folder, GEOMETRY)
    assert len(textures.kept) == 3
    for left, right in zip(whole.pool(0, "ab" * 32), textures.pool(0, "ab" * 32), strict=True):
        assert (left == right).all()
    gone = next(one for one in textures.images if one.digest not in textures.kept)
    data = gone.path.read_bytes()
    cv2.imwrite(str(gone.path), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(ImageError, match=r"changed while.*build again"):
        textures._canvas(gone)
    gone.path.write_bytes(data[:50])
    with pytest.raises(ImageError, match=gone.path.name):
        textures._canvas(gone)


def test_unusable_textures_are_all_named(folder):
    whole = Textures.open(folder, GEOMETRY)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    with pytest.raises(BadImages, match=r"textures: 2 unusable textures.*--skip-bad") as caught:
        Textures.open(folder, GEOMETRY)
    assert [error.path.rsplit("/")[-1] for error in caught.value.errors] == [
        "empty.png",
        "text.jpg",
    ]
    found = Textures.open(folder, GEOMETRY, skip_bad=True)
    assert found.recipe() == whole.recipe()
    assert len(found.skipped) == 2
    with pytest.raises(BadImages, match="22 unusable textures"):
        Textures.open(folder, GEOMETRY, max_pixels=100)


def test_folders_without_textures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, match in (
        ("absent", r"no such folder.*--textures"),
        ("file", r"a file, not a folder.*--textures"),
        ("empty", r"no image among.*--donors procedural"),
    ):
        with pytest.raises(DataError, match=match):
            Textures.open(tmp_path / name, GEOMETRY, skip_bad=True)
    with pytest.raises(ConfigError, match=r"no name; .*--textures"):
        Textures.open("", GEOMETRY)


def test_a_folder_of_nothing_usable_says_why(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadImages, match=r"no usable image.*--donors procedural") as caught:
        Textures.open(tmp_path, GEOMETRY, skip_bad=True)
    assert [error.path.rsplit("/")[-1] for error in caught.value.errors] == ["a.png", "b.png"]
    assert "--skip-bad" not in str(caught.value)
