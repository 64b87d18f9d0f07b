"""verify_set: an untouched set has no problem, and every kind of damage is in the list."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from manifests.digest import bytes_digest, file_digest
from manifests.errors import DigestError, SetError
from manifests.schema import read_manifest, write_manifest
from manifests.verify import verify_set
from reference.small_sets import H, W, write_set


@pytest.fixture(scope="module", params=["pixels", "anchors"])
def original(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "tiles"
    write_set(path, store=request.param, n=3, r=6)
    return path


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiles")


def lines(problems):
    for problem in problems:
        assert isinstance(problem, SetError)
        assert "\n" not in str(problem) and len(str(problem)) < 700
    return "\n".join(map(str, problems))


def flip(path, place, bit=1):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= bit
    path.write_bytes(data)


def rewrite(folder, **changes):
    """Change the manifest behind its own back, with a digest that fits."""
    plain = json.loads((folder / "manifest.json").read_bytes()) | changes
    data = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(f"{bytes_digest(data)}  manifest.json\n")
    return plain


@pytest.mark.parametrize("quick", [True, False])
def test_an_untouched_set_has_no_problems(original, quick):
    done = []
    digest = file_digest(original / "manifest.json")
    assert (
        verify_set(original, quick=quick, expect=digest, progress=lambda *state: done.append(state))
        == []
    )
    assert done == [(1, 2), (2, 2)]


def test_files_beside_the_set_belong_to_no_digest(folder):
    (folder / "build.log").write_text("12:00 done")
    (folder / "preview.png").write_bytes(b"x")
    assert verify_set(folder) == []


def test_another_set_than_expected_is_reported(folder):
    problems = verify_set(folder, expect="a" * 64)
    assert len(problems) == 1 and isinstance(problems[0], DigestError)
    assert "another set than expected" in lines(problems)


def test_no_folder_and_no_manifest_are_reported(folder, tmp_path):
    assert "no such folder" in lines(verify_set(tmp_path / "nothing"))
    (folder / "manifest.json").unlink()
    assert "unfinished build" in lines(verify_set(folder))


@pytest.mark.parametrize("quick", [True, False])
def test_missing_extra_and_cut_shards_are_all_reported_first(folder, quick):
    first, second = folder / "shard-00000.h5", folder / "shard-00001.h5"
    shutil.copy(first, folder / "shard-00007.h5")
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    problems = verify_set(folder, quick=quick)
    text = lines(problems)
    assert "shard-00000.h5: shard is missing" in text
    assert "shard-00001.h5: shard is truncated" in text
    assert "shard-00007.h5: is not in the manifest" in text
    assert "truncated, damaged or not a shard" in text
    assert not any(isinstance(problem, DigestError) for problem in problems[:3])
    assert "counts of" not in text  # follows from the missing shard


def test_a_link_does_not_count_as_a_shard(folder, tmp_path):
    shutil.move(folder / "shard-00000.h5", tmp_path / "elsewhere.h5")
    (folder / "shard-00000.h5").symlink_to(tmp_path / "elsewhere.h5")
    assert "shard-00000.h5: shard is missing" in lines(verify_set(folder))


def test_every_flipped_bit_is_found(folder):
    rng = np.random.default_rng(1)
    path = folder / "shard-00001.h5"
    good = path.read_bytes()
    for place in [*rng.integers(0, len(good), 30).tolist(), 0, 9, 20, len(good) - 1]:
        flip(path, place, 1 << int(rng.integers(8)))
        problems = verify_set(folder)
        assert "shard-00001.h5: is not the file that was recorded" in lines(problems), place
        assert "shard-00000.h5" not in lines(problems)
        path.write_bytes(good)
    assert verify_set(folder) == []


def test_a_flipped_pixel_names_its_image(folder):
    with h5py.File(folder / "shard-00000.h5", "r+", libver=("v110", "v110")) as file:
        file["normals/image"][1, 4, 5, 2] ^= 1
    text = lines(verify_set(folder))
    assert "pixels of normal 1 are not the recorded ones" in text
    assert "is not the file that was recorded" in text
    assert "normal 0" not in text and "negative" not in text.replace("/negative", "")
    quick = lines(verify_set(folder, quick=True))
    assert "normal 1" not in quick


def test_edits_that_no_longer_give_the_recorded_pixels_are_found_even_with_fitting_digests(folder):
    """Somebody edits the edits and repairs every digest that covers files."""
    path = folder / "shard-00000.h5"
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        data = file["negatives/edits_data"][:].tobytes()
        changed = data.replace(b'"dst":[1,2,9,6]', b'"dst":[2,2,9,6]', 1)
        assert changed != data
        file["negatives/edits_data"][:] = np.frombuffer(changed, dtype=np.uint8)
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    shards[0]["file_sha256"] = file_digest(path)
    shards[0]["file_bytes"] = path.stat().st_size
    rewrite(folder, shards=shards)
    text = lines(verify_set(folder))
    assert "negative 0 as rendered are not the recorded ones" in text
    assert "content_digest is not that of the contents" in text
    assert "content_digest" in lines(verify_set(folder, quick=True))


def test_the_shard_of_another_category_is_reported(folder, tmp_path):
    write_set(tmp_path / "other", category="other", n=3, r=6)
    shutil.copy(tmp_path / "other" / "shard-00000.h5", folder / "shard-00000.h5")
    text = lines(verify_set(folder))
    assert "is not the file that was recorded" in text
    assert "content digest is not the one in the manifest" in text
    assert "not one of the manifest's training files" in text


def test_swapped_shards_are_reported(folder):
    first, second = folder / "shard-00000.h5", folder / "shard-00001.h5"
    data = first.read_bytes()
    second.replace(first)
    second.write_bytes(data)
    text = lines(verify_set(folder))
    assert text.count("is not the file that was recorded") == 2
    assert text.count("content digest is not the one in the manifest") == 2


def test_a_shard_that_is_there_twice_is_reported(folder):
    manifest, _ = read_manifest(folder)
    shutil.copy(folder / "shard-00000.h5", folder / "shard-00001.h5")
    twice = replace(manifest.shards[0], name="shard-00001.h5")
    plain = json.loads(replace(manifest, shards=(manifest.shards[0], twice)).to_bytes())
    rewrite(folder, **plain)
    text = lines(verify_set(folder))
    assert text.count("normal is there twice") == 3
    assert "content_digest is not that of its shards" in text


def test_a_newer_manifest_and_a_newer_shard_are_named(folder):
    with h5py.File(folder / "shard-00000.h5", "r+", libver=("v110", "v110")) as file:
        file.attrs.modify("schema_version", np.int64(2))
    assert "was written by a newer cutswap" in lines(verify_set(folder))
    rewrite(folder, schema_version=2, something_new=[1, 2])
    problems = verify_set(folder)
    assert len(problems) == 1 and "manifest.json: was written by a newer" in lines(problems)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_flipped_bit_in_the_manifest_is_found(folder, name):
    path = folder / name
    good = path.read_bytes()
    for place in np.random.default_rng(2).integers(0, len(good), 12).tolist():
        flip(path, place, 2)
        problems = verify_set(folder, quick=True)
        assert problems and "manifest.sha256" in lines(problems), place
        path.write_bytes(good)
    path.write_bytes(b"")
    assert name in lines(verify_set(folder))


def test_counts_and_fallbacks_are_compared_with_the_shards(folder):
    plain = json.loads((folder / "manifest.json").read_bytes())
    counts = plain["counts"] | {"policies": {"swap": {"4": 99}}, "normals": 77}
    rewrite(folder, counts=counts, fallbacks={})
    text = lines(verify_set(folder, quick=True))
    assert "count of normals is not that of its shards" in text
    assert "counts of policies are not those of the shards" in text
    assert "fallbacks are not those of the shards" in text
    rewrite(folder, counts=plain["counts"] | {"undrawn": 3}, fallbacks=plain["fallbacks"])
    assert verify_set(folder) == []  # further counts are welcome


def test_set_digests_entries_and_geometry_are_compared(folder):
    plain = json.loads((folder / "manifest.json").read_bytes())
    shards = plain["shards"]
    shards[1]["negatives"], shards[1]["environment"] = 5, {"numpy": "0"}
    geometry = {"height": H, "width": W + 1, "fit": "stretch"}
    rewrite(
        folder,
        shards=shards,
        content_digest="a" * 64,
        saliency_digest="b" * 64,
        recipe=plain["recipe"] | {"geometry": geometry},
        training_files=plain["training_files"][1:],
    )
    text = lines(verify_set(folder, quick=True))
    for expected in (
        "content_digest is not that of its shards",
        "saliency_digest is not that of its shards",
        "count of negatives is not that of its shards",
        "number of negatives is not the one in the manifest",
        "environment is not the one in the manifest",
        "image width is not the one in the manifest",
        "normal is not one of the manifest's training files",
    ):
        assert expected in text, expected


def test_what_a_manifest_says_of_its_canvas_cannot_steer_a_terminal(folder):
    plain = json.loads((folder / "manifest.json").read_bytes())
    geometry = {"height": "\0", "width": "\x1b[2J\u202e", "fit": "stretch"}
    rewrite(folder, recipe=plain["recipe"] | {"geometry": geometry})
    problems = verify_set(folder, quick=True)
    assert sum("image height" in str(one) or "image width" in str(one) for one in problems) == 2 * (
        len(plain["shards"])
    )
    assert all(str(one).isprintable() for one in problems)


def test_verifying_a_set_that_was_extended(folder):
    """What `build --add` does: a further shard and a new manifest."""
    manifest, _ = read_manifest(folder)
    digest = write_manifest(folder, replace(manifest, attribution="another"))
    assert verify_set(folder, expect=digest) == []
    assert len(verify_set(folder, expect=bytes_digest(manifest.to_bytes()))) == 1
