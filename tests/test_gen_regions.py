"""Which regions a set's recipe speaks of, a stranger's among them."""

from __future__ import annotations

import pytest

from generator.regions import Regions
from manifests.errors import SetError

KMEANS = {"seed": 3, "clusters": {"k": 4, "choice": "max"}}
SALIENT = {
    "seed": 3,
    "clusters": {"k": None, "choice": "min"},
    "regions": {"kind": "most-salient", "most_salient": 64},
}


def test_recipes_say_how_maps_are_cut():
    assert Regions.from_recipe(KMEANS) == Regions("kmeans", 4, 0, "max", 3)
    assert Regions.from_recipe(SALIENT) == Regions("most-salient", 2, 64, "min", 3)


@pytest.mark.parametrize("recipe", [{}, {"seed": 1}, {**KMEANS, "seed": None, "parts": []}])
def test_sets_without_saliency_or_of_several_recipes_have_none(recipe):
    assert Regions.from_recipe(recipe) is None


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "3"}, {"seed": True}, {"seed": -1}, {"seed": [3]}, {"clusters": 4},
        {"clusters": {"k": 4}}, {"clusters": {"k": "4", "choice": "max"}},
        {"clusters": {"k": 4, "choice": "most"}}, {"clusters": {"k": 4, "choice": ["max"]}},
        {"regions": {"kind": "all"}}, {"regions": {"kind": ["kmeans"]}}, {"regions": []},
        {"regions": {"kind": "most-salient", "most_salient": 6.5}},
        {"regions": {"kind": "most-salient"}},
    ],
)  # fmt: skip
def test_malformed_recipes_are_refused_in_one_line(change):
    with pytest.raises(SetError, match="clusters or regions are malformed") as caught:
        Regions.from_recipe(KMEANS | change)
    assert "\n" not in str(caught.value)
