"""`build --reuse-saliency`: the bytes of a build from scratch, without a network, or a refusal."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from conftest import IMAGE_SIZE, invoke_gen
from test_gen_pipeline import build, digests, good_photos

import generator.saliency
from generator.stored_saliency import EMBEDDED_DIGEST, EMBEDDED_LEVELS
from manifests.schema import read_manifest, write_manifest
from reference.interruptions import stopped_after_one_shard

# All that reuse must get right at once: fewer levels, other policies, regions and repeats.
OTHER = (
    "--policies", "cutpaste,scar,swap", "--levels", "3,1", "--repeats", 2,
    "--regions", "most-salient", "--seed", 5,
)  # fmt: skip


@pytest.fixture(scope="module")
def scratch(sample_data, tmp_path_factory) -> Path:
    """Root of a set of other options than `built`, with saliency computed by the network."""
    out = tmp_path_factory.mktemp("scratch")
    build(sample_data, out, *OTHER)
    return out


@pytest.fixture
def no_pass(monkeypatch):
    """Makes any run of the network an error."""

    def run(*_arguments, **_options):
        raise AssertionError("the network was run")

    monkeypatch.setattr(generator.saliency, "layer_cam", run)
    monkeypatch.setattr(generator.saliency, "saliency_maps", run)


def changed_recipe(source: Path, target: Path, **changes: object) -> Path:
    """A copy of a set whose recipe has other values."""
    shutil.copytree(source, target)
    manifest, _ = read_manifest(target)
    recipe = {**manifest.recipe, **changes}
    write_manifest(target, dataclasses.replace(manifest, recipe=recipe))
    return target


def test_bytes_are_those_of_a_build_from_scratch(
    sample_data, built, scratch, category_name, tmp_path, no_pass
):
    build(sample_data, tmp_path, *OTHER, "--reuse-saliency", built / category_name)
    assert digests(tmp_path / category_name) == digests(scratch / category_name)


def test_workers_and_a_root_of_sets(sample_data, built, scratch, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path, "--image-size", IMAGE_SIZE, "--shard-images", 4,
        "--jobs", 2, "--quiet", *OTHER, "--reuse-saliency", built,
    )  # fmt: skip
    assert digests(tmp_path / category_name) == digests(scratch / category_name)


@pytest.mark.parametrize("goes_on_with", ["stored maps", "the network"])
def test_interrupted_build_resumes_to_equal_bytes(
    goes_on_with, sample_data, built, scratch, category_name, tmp_path, monkeypatch
):
    import generator.unit

    reuse = ("--reuse-saliency", built)
    with stopped_after_one_shard(monkeypatch, generator.unit):
        build(sample_data, tmp_path, *OTHER, *reuse, exit_code=130)
    folder = tmp_path / category_name
    assert [path.name for path in folder.glob("*.h5")] == ["shard-00000.h5"]
    result = build(sample_data, tmp_path, *OTHER, *(reuse if goes_on_with == "stored maps" else ()))
    assert "1 shard taken over" in result.output
    assert digests(folder) == digests(scratch / category_name)


def test_progress_summary_and_log_say_so(sample_data, built, category_name, tmp_path, no_pass):
    def run(out, *more):
        return invoke_gen(
            "build", sample_data, "--out", out, "--image-size", IMAGE_SIZE, "--shard-images", 4,
            "--jobs", 1, "--policies", "scar", *more,
        )  # fmt: skip

    result = run(tmp_path / "a", "--reuse-saliency", built)
    assert f"build {category_name}, saliency reused  9/9 images" in result.stderr
    assert f"saliency maps taken from {built / category_name}" in result.stdout
    result = run(tmp_path / "b", "--reuse-saliency", built, "--json", "--device", "cpu")
    assert json.loads(result.stdout)[0]["saliency_from"] == str(built / category_name)
    assert "--device changes nothing" in result.stderr
    (line,) = (tmp_path / "b" / category_name / "build.log").read_text().splitlines()
    assert json.loads(line)["saliency_from"] == read_manifest(built / category_name)[1]
    again = run(tmp_path / "b", "--reuse-saliency", built)
    assert "nothing to do" in again.stdout and "saliency maps" not in again.stdout


def test_environment_is_that_of_the_pass(sample_data, built, category_name, tmp_path, no_pass):
    source = tmp_path / "made elsewhere"
    shutil.copytree(built / category_name, source)
    manifest, _ = read_manifest(source)
    # Only a build on another machine would write another one: the shards are made to say so.
    from manifests.shard import Shard, write_shard

    entries = []
    for entry in manifest.shards:
        with Shard(source / entry.name) as shard:
            normals = [shard.normal(i) for i in range(shard.n_normals)]
            rows = [shard.negative(j) for j in range(shard.n_negatives)]
            unit_digest = shard.index.unit_digest
        entries.append(
            write_shard(
                source / entry.name, normals, rows, store="pixels", unit_digest=unit_digest,
                environment={"device": "another one"},
            )
        )  # fmt: skip
    write_manifest(source, dataclasses.replace(manifest, shards=tuple(entries)))
    build(sample_data, tmp_path / "out", "--reuse-saliency", source)
    reused, _ = read_manifest(tmp_path / "out" / category_name)
    assert [entry.environment for entry in reused.shards] == [{"device": "another one"}] * 3
    assert reused.content_digest == manifest.content_digest


# Option -> what the refusal must name.
MISMATCHES = {
    ("--threads", 2): "pass --threads 1",
    ("--batch", 2): "pass --batch 8",
    ("--shard-images", 3): "pass --shard-images 4",
    ("--precision", "bf16"): "pass --precision fp32",
    ("--image-size", "80x96"): "pass --image-size 96x80 --fit stretch",
    ("--fit", "crop"): "pass --image-size 96x80 --fit stretch",
}


@pytest.mark.parametrize("option", MISMATCHES, ids=lambda option: option[0])
def test_other_options_are_refused_by_name(
    option, sample_data, built, category_name, tmp_path, no_pass
):
    result = build(sample_data, tmp_path, "--reuse-saliency", built, *option, exit_code=2)
    assert MISMATCHES[option] in result.output
    assert "or build without --reuse-saliency" in result.output
    assert len(result.output.splitlines()) == 1
    assert not list(tmp_path.rglob("*.h5"))


def test_other_levels_network_and_weights_are_refused(
    sample_data, built, scratch, category_name, tmp_path, no_pass
):
    reuse = ("--reuse-saliency", scratch)
    result = build(sample_data, tmp_path / "a", *reuse, "--levels", "1,2", exit_code=2)
    assert "pass --levels 3,1" in result.output
    result = build(sample_data, tmp_path / "a", *reuse, exit_code=2)
    assert "expected 0,1,2,3,4, got 3,1" in result.output
    result = build(
        sample_data, tmp_path / "a", "--reuse-saliency", built, "--levels", 9, exit_code=2
    )
    assert "no saliency level 9" in result.output
    for number, (changed, told) in enumerate(
        (
            ({"name": "vgg16", "digest": EMBEDDED_DIGEST}, "pass --network vgg16"),
            ({"name": "efficientnet_lite0", "digest": "0" * 64}, "pass the --weights"),
            (None, "holds no saliency"),
        )
    ):
        source = changed_recipe(
            built / category_name, tmp_path / f"changed {number}", network=changed
        )
        result = build(sample_data, tmp_path / "b", "--reuse-saliency", source, exit_code=2)
        assert told in result.output and "build without --reuse-saliency" in result.output


def test_typed_weights_are_compared_too(sample_data, built, category_name, tmp_path):
    import torch

    from manifests.weights import load_network

    network = load_network("efficientnet_lite0", pretrained=False, seed=4)
    torch.save(network.module.state_dict(), tmp_path / "other.pth")
    result = build(
        sample_data, tmp_path / "out", "--weights", tmp_path / "other.pth", "--reuse-saliency",
        built, exit_code=2,
    )  # fmt: skip
    assert "of other weights" in result.output and network.digest[:12] in result.output


def test_known_digest_is_that_of_the_embedded_network():
    from manifests.weights import load_network

    network = load_network()
    assert network.digest == EMBEDDED_DIGEST
    assert tuple(network.levels) == EMBEDDED_LEVELS


def test_other_images_are_refused(sample_data, built, category_name, tmp_path, no_pass):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    reuse = ("--reuse-saliency", built)
    added = good_photos(tmp_path / "photos", 1) / "photo 0.png"
    shutil.copy(added, data / "train" / "good" / "zzz.png")
    result = build(data, tmp_path / "a", *reuse, exit_code=1)
    assert "holds no saliency of train/good/zzz.png" in result.output
    (data / "train" / "good" / "zzz.png").unlink()
    sorted((data / "train" / "good").iterdir())[0].unlink()
    result = build(data, tmp_path / "a", *reuse, exit_code=1)
    assert "is of more images" in result.output and "expected 8 images, got 9" in result.output
    assert not list((tmp_path / "a").rglob("*.h5"))


def test_refusal_leaves_an_old_set_alone(sample_data, built, category_name, tmp_path):
    shutil.copytree(built, tmp_path / "out")
    before = digests(tmp_path / "out" / category_name)
    build(
        sample_data, tmp_path / "out", "--overwrite", "--seed", 1, "--threads", 2,
        "--reuse-saliency", built, exit_code=2,
    )  # fmt: skip
    result = build(
        sample_data, tmp_path / "out", "--overwrite", "--seed", 1,
        "--reuse-saliency", tmp_path / "out", exit_code=2,
    )  # fmt: skip
    assert "the set to be written" in result.output and "--out" in result.output
    assert digests(tmp_path / "out" / category_name) == before


def test_damaged_missing_and_unfinished_sets(sample_data, built, category_name, tmp_path, no_pass):
    def refused(source: Path) -> str:
        result = build(sample_data, tmp_path / "out", "--reuse-saliency", source, exit_code=1)
        return result.output

    assert "no such folder" in refused(tmp_path / "absent")
    source = tmp_path / "set" / category_name
    shutil.copytree(built / category_name, source)
    shard = source / "shard-00001.h5"
    whole = shard.read_bytes()
    # A flipped bit in the last pixels, which only the file's digest can tell.
    with open(shard, "r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    assert "is not the file that was recorded" in refused(source)
    shard.write_bytes(whole[:-100])
    assert "truncated" in refused(source)
    shard.unlink()
    assert "missing" in refused(source)
    (source / "manifest.json").unlink()
    assert "unfinished" in refused(source)
    source.rename(tmp_path / "set" / "another")
    result = refused(tmp_path / "set")
    assert f"no set of category {category_name}" in result and "another" in result


def test_a_build_without_saliency_refuses_it(sample_data, built, tmp_path):
    result = build(
        sample_data, tmp_path, "--policies", "cutpaste", "--reuse-saliency", built, exit_code=2
    )
    assert "no policy of this build needs saliency" in result.output
