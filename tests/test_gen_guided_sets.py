"""Recipes of forged anomalies, and sets of those guided by saliency, by every view of the maps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import invoke_gen
from test_gen_pipeline import build, digests

from generator.config import BuildConfig
from generator.saliency_views import combined_saliency
from manifests.digest import bytes_digest
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.verify import verify_set
from reference.loose_sets import loose_set
from reference.small_sets import records

# Recipes


def test_recipes_without_forged_anomalies_are_what_they_were():
    for policies, levels, digest, expected in (
        (("swap", "scar"), (0, 1, 2, 3, 4), "ab" * 32, "9e2fb47cbcd17e4a"),
        (("cutpaste", "random-swap"), (), None, "aa6aed072adcc385"),
    ):
        recipe = BuildConfig(policies=policies).recipe(levels=levels, network_digest=digest)
        text = json.dumps(recipe, sort_keys=True)
        assert bytes_digest(text.encode())[:16] == expected


@pytest.mark.parametrize(
    ("perlin", "donors"),
    [(4, 5), ("x", {"kind": None}), ({"saliency": [1]}, {"kind": "textures", "images": "x"})],
)
def test_what_a_strangers_recipe_says_does_no_harm(perlin, donors, tmp_path):
    recipe = {"perlin": perlin, "donors": donors, "policies": ["saliency-perlin"]}
    normals, negatives, lent = records(2, 3)
    rows = [replace(row, policy="saliency-perlin", level=-1) for row in negatives]
    loose_set(tmp_path / "tiles", normals, rows, lent, recipe=recipe)
    assert "guided by saliency" in invoke_gen("inspect", tmp_path / "tiles").stdout
    invoke_gen("preview", tmp_path / "tiles", "--out", tmp_path / "sheets", "--quiet")


# Views of saliency


@pytest.fixture(scope="module")
def guided(sample_data, built, tmp_path_factory):
    """Roots of sets guided by saliency, by view; the maps are those of `built`."""
    root = tmp_path_factory.mktemp("guided")
    for view in ("level", "mean", "max"):
        build(sample_data, root / view, "--policies", "saliency-perlin,swap", "--saliency", view,
              "--reuse-saliency", built)  # fmt: skip
    return {view: root / view for view in ("level", "mean", "max")}


def test_a_level_at_a_time_or_all_at_once(guided, built, category_name):
    contents = set()
    for view, root in guided.items():
        manifest, _ = read_manifest(root / category_name)
        counts = manifest.counts["policies"]
        made = counts["saliency-perlin"]
        assert set(made) == ({"0", "1", "2", "3", "4"} if view == "level" else {"-1"})
        assert sum(made.values()) + manifest.counts["dropped"]["saliency-perlin"] == 45
        assert sum(made.values()) > 40
        assert manifest.recipe["perlin"]["saliency"] == view
        assert manifest.saliency == "stored"
        contents.add(manifest.content_digest)
        assert verify_set(root / category_name) == []
        with (
            NegativeSet.open(root / category_name) as mixed,
            NegativeSet.open(built / category_name) as plain,
        ):
            swaps = [one.digest for one in mixed if one.policy == "swap"]
            assert swaps == [one.digest for one in plain if one.policy == "swap"]
            assert mixed.levels == plain.levels
    assert len(contents) == 3


def test_masks_prefer_what_is_salient(guided, category_name):
    for view in ("mean", "max"):
        with NegativeSet.open(guided[view] / category_name) as negative_set:
            inside, everywhere = [], []
            for one in negative_set:
                if one.policy != "saliency-perlin":
                    continue
                box = negative_set.normal(one.normal).canvas_box
                maps = [negative_set.saliency(one.normal, level) for level in negative_set.levels]
                full = combined_saliency(maps, *one.mask.shape, box, view=view)
                inside.append(full[one.mask].mean())
                everywhere.append(full.mean())
                assert full[one.mask].min() > 0.4 * 255
            assert np.mean(inside) > 1.4 * np.mean(everywhere)


def test_reused_saliency_gives_the_set_of_a_network(sample_data, guided, category_name, tmp_path):
    build(sample_data, tmp_path, "--policies", "saliency-perlin,swap", "--saliency", "mean")
    assert digests(tmp_path / category_name) == digests(guided["mean"] / category_name)


def test_merged_with_other_kinds_the_view_stays(sample_data, guided, category_name, tmp_path):
    build(sample_data, tmp_path / "plain", "--policies", "cutpaste")
    invoke_gen(
        "merge", guided["max"], tmp_path / "plain", "--out", tmp_path / "merged", "--quiet"
    )  # fmt: skip
    assert read_manifest(tmp_path / "merged" / category_name)[0].recipe["perlin"] is None
    text = invoke_gen("inspect", tmp_path / "merged").stdout
    assert "guided by saliency, the maximum of all levels" in text
