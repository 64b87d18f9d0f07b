"""Every option of `build` reaches what it is for."""

from __future__ import annotations

import json

import cv2
import pytest
from conftest import invoke_gen
from test_gen_pipeline import good_photos

from generator.cli import main
from generator.regions import Regions
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest

BASE = ("--image-size", "64", "--jobs", 1, "--quiet", "--levels", "2,3", "--policies", "swap,scar")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / "photos", 3)


@pytest.fixture(scope="module")
def base(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    invoke_gen("build", photos, "--out", out, *BASE)
    return read_manifest(out / "photos")[0]


# Options that shape pixels: the negatives must come out differently.
SHAPING = {
    "--seed": 1,
    "--policies": "swap",
    "--repeats": 2,
    "--levels": "1,2",
    "--clusters": 2,
    "--cluster": "min",
    "--area": "0.05,0.06",
    "--aspect": "1,1.2",
    "--scar-width": "6,8",
    "--scar-length": "20,25",
    "--scar-angle": 5,
    "--noop-tolerance": 60,
    "--image-size": "64x96",
    "--fit": "crop",
    "--regions": "most-salient",
    "--feather": 3,
}

# Options that only the recipe or the manner of working shows.
RECORDED = {
    "--precision": ("bf16", "precision", "bf16"),
    "--store": ("anchors", "store", "anchors"),
    "--threads": (2, "threads", 2),
    "--batch": (2, "batch", 2),
    "--shard-images": (2, "shard_images", 2),
}


@pytest.mark.parametrize("option", SHAPING)
def test_option_shapes_the_negatives(option, photos, base, tmp_path):
    invoke_gen("build", photos, "--out", tmp_path, *BASE, option, SHAPING[option])
    manifest = read_manifest(tmp_path / "photos")[0]
    assert manifest.content_digest != base.content_digest
    assert manifest.recipe != base.recipe


@pytest.mark.parametrize("option", RECORDED)
def test_option_is_recorded(option, photos, base, tmp_path):
    value, key, recorded = RECORDED[option]
    invoke_gen("build", photos, "--out", tmp_path, *BASE, option, value)
    manifest = read_manifest(tmp_path / "photos")[0]
    assert manifest.recipe[key] == recorded != base.recipe[key]
    if option == "--shard-images":
        assert len(manifest.shards) == 2


def test_most_salient_pixels_bound_the_anchors(photos, tmp_path):
    """Scaled from 256x256 px to 64x64 px and, where the image is letterboxed, to its own area."""
    import numpy as np

    options = ("--regions", "most-salient", "--fit", "letterbox")
    corners = {}
    for count in (64, 320):
        out = tmp_path / str(count)
        invoke_gen("build", photos, "--out", out, *BASE, *options, "--most-salient", count)
        with NegativeSet.open(out / "photos") as negative_set:
            assert negative_set.manifest.recipe["regions"] == {
                "kind": "most-salient", "most_salient": count,
            }  # fmt: skip
            assert negative_set.manifest.recipe["clusters"] == {"k": None, "choice": "max"}
            regions = Regions.from_recipe(negative_set.manifest.recipe)
            normal = negative_set.normal(0)
            h, w = normal.canvas_box[2:]
            assert h < w == 64
            labels, found = regions.cut(
                negative_set.saliency(0, 2), 64, 64, normal.canvas_box, digest=normal.digest,
                level=2,
            )  # fmt: skip
            assert found.count == 2
            assert np.count_nonzero(labels == 1) == round(count * h * w / 256**2)
            np.testing.assert_allclose(
                negative_set.centres(0, 2), found.centroids.astype(np.float32)
            )
            rows = [row for row in negative_set if row.normal == 0 and row.level == 2]
            for row in rows:
                if row.fallback == 0:
                    top, left = row.anchors[0][:2].tolist()
                    assert labels[top, left] == 1
            corners[count] = [row.digest for row in rows]
    assert corners[64] != corners[320]


def test_colour_jitter_shapes_cutpaste(photos, tmp_path):
    contents = set()
    for strength in (0, 0.1, 0.3):
        out = tmp_path / str(strength)
        invoke_gen(
            "build", photos, "--out", out, *BASE, "--policies", "cutpaste", "--colour-jitter",
            strength,
        )  # fmt: skip
        manifest = read_manifest(out / "photos")[0]
        assert manifest.recipe["colour_jitter"] == strength
        contents.add(manifest.content_digest)
    assert len(contents) == 3


def test_area_and_aspect_bound_the_patches(photos, tmp_path):
    invoke_gen(
        "build", photos, "--out", tmp_path, *BASE, "--area", "0.05,0.06", "--aspect", "1,1.2",
        "--policies", "swap", "--repeats", 3,
    )  # fmt: skip
    with NegativeSet.open(tmp_path / "photos") as negative_set:
        plain = [negative_set[j] for j in range(len(negative_set)) if negative_set[j].fallback == 0]
        assert plain
        for negative in plain:
            _, _, h, w = negative.anchors[0]
            assert 0.04 <= h * w / 64**2 <= 0.07
            assert 0.9 <= h / w <= 1.3


def test_network_weights_and_preset(photos, tmp_path):
    import torch

    from manifests.weights import load_network

    network = load_network("resnet18", pretrained=False, seed=3)
    torch.save(network.module.state_dict(), tmp_path / "resnet18.pth")
    options = ("--image-size", "64", "--jobs", 1, "--quiet")
    invoke_gen(
        "build", photos, "--out", tmp_path / "a", *options, "--network", "resnet18",
        "--weights", tmp_path / "resnet18.pth",
    )  # fmt: skip
    recipe = read_manifest(tmp_path / "a" / "photos")[0].recipe
    assert recipe["network"] == {"name": "resnet18", "digest": network.digest}

    vgg = load_network("vgg16", pretrained=False, seed=3)
    torch.save(vgg.module.state_dict(), tmp_path / "vgg16.pth")
    invoke_gen(
        "build", photos, "--out", tmp_path / "b", *options, "--preset", "paper", "--clusters", 3,
        "--weights", tmp_path / "vgg16.pth",
    )  # fmt: skip
    recipe = read_manifest(tmp_path / "b" / "photos")[0].recipe
    assert recipe["network"]["name"] == "vgg16"
    assert recipe["levels"] == [4, 9, 16, 23, 30]
    assert recipe["clusters"]["k"] == 3, "a typed option wins over the preset"


def test_format_category_and_train_list(sample_data, category_name, tmp_path):
    result = invoke_gen(
        "build", sample_data, "--out", tmp_path / "a", *BASE, "--category", "absent", exit_code=2
    )
    assert "absent" in result.output
    invoke_gen("build", sample_data, "--out", tmp_path / "b", *BASE, "--category", category_name)
    assert (tmp_path / "b" / category_name / "manifest.json").exists()
    good = sample_data / category_name / "train" / "good"
    invoke_gen("build", good, "--out", tmp_path / "c", *BASE, "--format", "folder")
    assert read_manifest(tmp_path / "c" / "good")[0].format == "folder"
    result = invoke_gen(
        "build", good, "--out", tmp_path / "d", *BASE, "--format", "mtd", exit_code=1
    )
    assert "MT_Free" in result.output


def test_train_list_chooses_the_tiles(tmp_path):
    root = tmp_path / "tiles"
    good_photos(root / "MT_Free" / "Imgs", 4)
    for path in list((root / "MT_Free" / "Imgs").iterdir()):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path.with_suffix(".jpg")), image)
        cv2.imwrite(str(path), image[:, :, 0] * 0)
    (tmp_path / "list.txt").write_text("photo 0.jpg\nphoto 2.jpg\n")
    invoke_gen(
        "build", root, "--out", tmp_path / "out", *BASE, "--train-list", tmp_path / "list.txt"
    )
    assert read_manifest(tmp_path / "out" / "tiles")[0].counts["normals"] == 2


def test_json_summary(photos, tmp_path):
    result = invoke_gen("build", photos, "--out", tmp_path, *BASE, "--json")
    (summary,) = json.loads(result.stdout)
    assert summary["counts"]["normals"] == 3
    assert summary["digest"] == read_manifest(tmp_path / "photos")[1]


def test_cuda_that_is_not_there(photos, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke_gen("build", photos, "--out", tmp_path, *BASE, "--device", "cuda", exit_code=1)
    assert "CUDA" in result.output and "--device" in result.output


def test_progress_goes_to_stderr_unless_quiet(photos, tmp_path):
    options = ("--image-size", "64", "--jobs", 1, "--levels", "2")
    loud = invoke_gen("build", photos, "--out", tmp_path / "a", *options)
    quiet = invoke_gen("build", photos, "--out", tmp_path / "b", *options, "--quiet")
    assert "build photos  3/3 images" in loud.stderr
    assert "build photos" not in loud.stdout
    assert "build photos" not in quiet.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--area", "0.5,0.1"),
        ("--area", "x"),
        ("--clusters", "0"),
        ("--levels", "77"),
        ("--levels", "2,2"),
        ("--policies", "cut"),
        ("--image-size", "8"),
        ("--image-size", "axb"),
        ("--scar-width", "40,50"),
        ("--scar-angle", "120"),
        ("--repeats", "0"),
        ("--jobs", "0"),
        ("--precision", "fp8"),
        ("--seed", "-1"),
        ("--regions", "otsu"),
        ("--most-salient", "1"),
        ("--colour-jitter", "0.5"),
        ("--feather", "-1"),
        ("--perlin-cells", "0,9"),
        ("--perlin-cells", "0.5,2"),
        ("--alpha", "0,1"),
        ("--saliency", "min"),
        ("--donors", "textures"),
    ],
)
def test_wrong_values_are_refused_by_name(option, value, photos, tmp_path):
    result = invoke_gen("build", photos, "--out", tmp_path, *BASE, option, value, exit_code=2)
    assert option in result.output
    assert not list(tmp_path.rglob("*.h5"))


def test_every_option_is_tested_here():
    tested = {*SHAPING, *RECORDED} | {
        "--out", "--network", "--weights", "--preset", "--jobs", "--device", "--category",
        "--format", "--train-list", "--json", "--quiet", "--most-salient", "--colour-jitter",
        # in test_gen_reuse_saliency.py
        "--reuse-saliency",
        # in test_gen_threads.py and test_gen_cluster.py
        "--backend", "--scheduler",
        # in test_gen_add.py and test_gen_export.py
        "--add", "--licence", "--attribution",
        # in test_cli_forged.py
        "--perlin-cells", "--alpha", "--saliency", "--donors", "--textures",
        # in test_cli_roi.py
        "--roi",
        # in test_gen_pipeline.py
        "--max-megapixels", "--skip-bad", "--overwrite",
    }  # fmt: skip
    declared = {
        option for parameter in main.commands["build"].params for option in parameter.opts
        if option.startswith("--")
    }  # fmt: skip
    assert declared == tested
