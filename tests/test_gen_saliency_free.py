"""Policies that need no saliency: level -1, as many negatives, no network where all are such."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import REPO, invoke_gen
from test_gen_pipeline import build, digests, good_photos

from generator.config import POLICY_FIELDS, BuildConfig
from generator.negatives import policy_of
from generator.policies import POLICIES
from manifests.errors import ConfigError
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.verify import verify_set

FREE = "random-swap,random-scar,cutpaste,cutpaste-scar"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / "photos", 3, side=96)


@pytest.fixture(scope="module")
def free(photos, tmp_path_factory):
    """A set of all four policies that need no saliency."""
    out = tmp_path_factory.mktemp("free")
    build(photos, out, "--policies", FREE)
    return out / "photos"


def test_every_policy_is_drawn_five_times_at_no_level(free):
    manifest, _ = read_manifest(free)
    names = FREE.split(",")
    assert manifest.counts["policies"] == {name: {"-1": 15} for name in names}
    assert manifest.counts["dropped"] == dict.fromkeys(names, 0)
    with NegativeSet.open(free) as negative_set:
        assert negative_set.levels == ()
        assert set(negative_set.negative_level.tolist()) == {-1}
        for name in names:
            of_first = (negative_set.negative_policy == name) & (negative_set.negative_normal == 0)
            assert negative_set.negative_repeat[of_first].tolist() == [0, 1, 2, 3, 4]
            assert len({negative_set[int(j)].digest for j in np.flatnonzero(of_first)}) == 5
    assert verify_set(free) == []


def test_recipe_and_shards_know_of_no_network(free):
    manifest, _ = read_manifest(free)
    recipe = manifest.recipe
    for name in ("network", "clusters", "regions", "precision", "threads", "batch"):
        assert recipe[name] is None, name
    assert recipe["levels"] == [] and recipe["draws"] == 5
    assert all(entry.environment == {} for entry in manifest.shards)
    text = invoke_gen("inspect", free).stdout
    assert "none: no policy of this set needs any" in text
    assert "cutpaste: 15 made, anywhere in the image" in text
    assert "level" not in text.split("made with")[1]


def test_network_is_neither_loaded_nor_are_its_libraries(photos, free, tmp_path):
    arguments = ["build", photos, "--out", tmp_path, "--image-size", "96x80", "--shard-images", 4]
    arguments += ["--jobs", 1, "--quiet", "--policies", FREE]
    code = (
        "import sys; from generator.cli import main\n"
        f"main({[str(one) for one in arguments]!r}, standalone_mode=False)\n"
        "assert not {'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert digests(tmp_path / "photos") == digests(free)


def test_workers_give_the_bytes_of_one(photos, free, tmp_path):
    invoke_gen(
        "build", photos, "--out", tmp_path, "--image-size", "96x80", "--shard-images", 2,
        "--jobs", 2, "--quiet", "--policies", FREE,
    )  # fmt: skip
    build(photos, tmp_path / "one", "--shard-images", 2, "--policies", FREE)
    assert digests(tmp_path / "photos") == digests(tmp_path / "one" / "photos")


def test_beside_saliency_the_negatives_are_the_same(sample_data, built, category_name, tmp_path):
    build(sample_data, tmp_path / "both", "--policies", "cutpaste,swap,random-scar,scar",
          "--reuse-saliency", built)  # fmt: skip
    build(sample_data, tmp_path / "free", "--policies", "random-scar,cutpaste")

    def rows(folder, policies):
        with NegativeSet.open(folder / category_name) as negative_set:
            return {
                (row.policy, row.level, row.repeat, negative_set.normal(row.normal).digest):
                row.digest for row in negative_set if row.policy in policies
            }  # fmt: skip

    both = tmp_path / "both"
    assert rows(both, ("random-scar", "cutpaste")) == rows(tmp_path / "free", POLICIES)
    assert rows(both, ("swap", "scar")) == rows(built, POLICIES)
    manifest, _ = read_manifest(both / category_name)
    totals = {name: sum(row.values()) for name, row in manifest.counts["policies"].items()}
    assert set(totals.values()) == {45}


@pytest.mark.parametrize(
    ("options", "draws"),
    [
        ((), 5),
        (("--repeats", 3), 15),
        (("--levels", "2,3"), 2),
        (("--levels", 4, "--repeats", 2), 2),
    ],
)
def test_number_of_draws(options, draws, photos, tmp_path):
    build(photos, tmp_path, "--policies", "cutpaste-scar", *options)
    manifest, _ = read_manifest(tmp_path / "photos")
    assert manifest.recipe["draws"] == draws
    assert manifest.counts["policies"] == {"cutpaste-scar": {"-1": 3 * draws}}


def test_dropped_draws_are_counted(tmp_path):
    """An image that is flat but for one corner has hardly a visible pair of patches."""
    for index in range(2):
        image = np.full((96, 96, 3), 90, np.uint8)
        image[:4, : 4 + index] = 200
        (tmp_path / "data").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / f"{index}.png"), image)
    build(
        tmp_path / "data", tmp_path / "out", "--policies", "random-scar,random-swap",
        "--noop-tolerance", 100, "--repeats", 2,
    )  # fmt: skip
    manifest, _ = read_manifest(tmp_path / "out" / "data")
    text = invoke_gen("inspect", tmp_path / "out").stdout
    for name in ("random-scar", "random-swap"):
        made = manifest.counts["policies"].get(name, {}).get("-1", 0)
        dropped = manifest.counts["dropped"][name]
        assert dropped > 10 and made + dropped == 2 * 2 * 5
        assert f"{name}: {dropped} dropped" in text


def test_options_of_the_network_are_named_as_idle(photos, tmp_path):
    def notes(*more):
        result = build(photos, tmp_path / str(len(more)), *more)
        return {line.split()[1] for line in result.stderr.splitlines() if line.startswith("note:")}

    assert notes("--policies", "cutpaste") == set()
    idle = ("--threads", 2, "--network", "vgg16", "--weights", "no such file", "--clusters", 3)
    idle += ("--device", "cpu", "--scar-angle", 3)
    assert notes("--policies", "cutpaste", *idle, "--area", "0.1,0.2") == set(idle[::2])
    assert notes("--policies", "random-scar", "--colour-jitter", 0.2, "--feather", 2) == {
        "--colour-jitter"
    }


def test_idle_options_of_a_build_with_saliency():
    forging = {"perlin_cells", "alpha", "saliency", "donors"}
    usual = BuildConfig()
    assert usual.idle_fields == {"most_salient", "colour_jitter"} | forging
    assert (
        BuildConfig(regions="most-salient").idle_fields == {"n_clusters", "colour_jitter"} | forging
    )
    assert BuildConfig(policies=tuple(POLICIES)).idle_fields == {"most_salient"}
    plain = BuildConfig(policies=("perlin",)).idle_fields
    guided = BuildConfig(policies=("saliency-perlin",)).idle_fields
    assert plain & forging == {"saliency"} and not guided & forging
    assert {"network", "cluster", "area_frac", "feather_px"} <= plain
    # Clusters are stored beside the maps, but nothing starts in any of them.
    assert plain - guided == {"network", "precision", "threads", "batch", "regions", "n_clusters",
                              "saliency"}  # fmt: skip


def test_every_policy_gets_its_options():
    assert set(POLICY_FIELDS) == set(POLICIES)
    config = BuildConfig(
        policies=tuple(POLICIES),
        area_frac=(0.05, 0.06),
        aspect=(0.9, 1.1),
        scar_width_px=(3.0, 4.0),
        scar_length_px=(11.0, 12.0),
        scar_angle_deg=7.0,
        colour_jitter=0.3,
        feather_px=2.0,
        noop_tolerance=5.0,
        cluster="min",
        perlin_cells=(1, 3),
        alpha=(0.3, 0.6),
        saliency="max",
    )
    for name in POLICIES:
        own = policy_of(name, config).config
        # A policy's fields that no option of the build reaches keep their one value.
        reached = set(vars(own)) - {"smallest_area_frac"}
        assert reached == set(POLICY_FIELDS[name])
        for field, shared in POLICY_FIELDS[name].items():
            assert getattr(own, field) == getattr(config, shared) != getattr(BuildConfig(), shared)


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("regions", "otsu", "--regions"),
        ("most_salient", 1, "--most-salient"),
        ("colour_jitter", 0.5, "--colour-jitter"),
        ("feather_px", 65.0, "--feather"),
        ("levels", tuple(range(65)), "--levels"),
        ("perlin_cells", (3, 2), "--perlin-cells"),
        ("perlin_cells", (0, 9), "--perlin-cells"),
        ("perlin_cells", (0.0, 5.0), "--perlin-cells"),
        ("alpha", (0.0, 1.0), "--alpha"),
        ("alpha", (0.5, 1.1), "--alpha"),
        ("saliency", "min", "--saliency"),
        ("donors", "others", "--donors"),
    ],
)
def test_config_refuses(field, value, option):
    with pytest.raises(ConfigError, match=option):
        BuildConfig(**{field: value})


def test_json_says_that_nothing_was_reused(photos, tmp_path):
    result = build(photos, tmp_path, "--policies", "cutpaste", "--json")
    (summary,) = json.loads(result.stdout)
    assert summary["saliency_from"] is None and summary["fresh_images"] == 3
