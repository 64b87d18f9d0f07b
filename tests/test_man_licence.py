"""Licences: which terms a name stands for, and what is said before pixels are passed on."""

import pytest

from manifests.licence import (
    NO_DERIVATIVES,
    NON_COMMERCIAL,
    SHARE_ALIKE,
    donor_warnings,
    pixel_warning,
    terms,
)

NC, SA, ND = NON_COMMERCIAL, SHARE_ALIKE, NO_DERIVATIVES


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC BY-NC-SA 4.0", {NC, SA}),
        ("CC-BY-NC-SA-4.0", {NC, SA}),
        ("cc_by_nc_sa", {NC, SA}),
        ("CC‑BY‑NC‑SA 3.0 IGO", {NC, SA}),
        ("ccbyncsa", {NC, SA}),
        ("BY-NC-SA 4.0", {NC, SA}),
        ("Creative Commons BY-NC-SA", {NC, SA}),
        (
            "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International "
            "(CC BY-NC-SA 4.0)",
            {NC, SA},
        ),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", {NC, SA}),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", {NC, SA}),
        ("CC-BY-NC-4.0", {NC}),
        ("by-nc", {NC}),
        ("CC-BY-NC-3.0-DE", {NC}),
        ("Attribution-NonCommercial 2.0 Generic", {NC}),
        ("CC-BY-SA-4.0", {SA}),
        ("Creative Commons Attribution Share Alike 4.0", {SA}),
        ("https://creativecommons.org/licenses/by-sa/3.0", {SA}),
        ("CC-BY-ND-4.0", {ND}),
        ("CC BY-NC-ND 4.0", {NC, ND}),
        ("Creative Commons Attribution No Derivative Works 3.0", {ND}),
        ("Attribution-NoDerivs 2.0", {ND}),
        ("PolyForm-Noncommercial-1.0.0", {NC}),
        ("free for non-commercial use", {NC}),
        ("for research purposes only", {NC}),
        ("Commercial use is prohibited.", {NC}),
        ("not for commercial use", {NC}),
        ("may not be used for commercial purposes", {NC}),
        ("not to be used commercially", {NC}),
        ("cannot be used commercially", {NC}),
        ("must never be sold or used for any commercial purpose", {NC}),
        ("personal use only", {NC}),
        ("for private use only", {NC}),
        ("MVTec research license", {NC}),
        ("academic use only", {NC}),
        ("only for personal use", {NC}),
        ("ODbL-1.0", {SA}),
        ("CDLA-Sharing-1.0", {SA}),
        ("GPL-3.0-only", {SA}),
        ("GPLv3", {SA}),
        ("CC BY 4.0; CC BY-NC-SA 4.0", {NC, SA}),
        ("CC-BY-SA-4.0 AND CC-BY-NC-4.0", {NC, SA}),
        # Nothing in the way.
        ("", set()),
        ("CC BY 4.0", set()),
        ("CC-BY-4.0", set()),
        ("Creative Commons Attribution 4.0 International", set()),
        ("https://creativecommons.org/licenses/by/4.0/", set()),
        ("CC0-1.0", set()),
        ("MIT", set()),
        ("Apache-2.0", set()),
        ("CDLA-Permissive-2.0", set()),
        ("ODC-By-1.0", set()),
        ("commercial use permitted", set()),
        ("may be used commercially", set()),
        ("not stated; commercial use permitted", set()),
        ("research institute's own licence, all uses", set()),
        ("not stated; citation requested", set()),
        # Letters that only look like elements of a licence.
        ("photographed by SA Tools, all uses allowed", set()),
        ("made by NDT engineers", set()),
        ("owned by ND Industries", set()),
        ("Nancy sand", set()),
    ],
)
def test_terms(licence, expected):
    assert terms(licence) == expected
    assert terms(licence.upper()) == expected


def test_a_permissive_licence_warns_of_nothing():
    assert pixel_warning("CC BY 4.0") is None
    assert pixel_warning("") is None


def test_the_warning_names_terms_licence_holder_and_the_way_to_share():
    line = pixel_warning("CC BY-NC-SA 4.0")
    for part in (
        "this set", "non-commercial and share-alike", "(CC BY-NC-SA 4.0)",
        "cutswap-gen export-recipe",
    ):  # fmt: skip
        assert part in line
    assert "no-derivatives" not in line
    assert pixel_warning("CC BY-ND 4.0", holder="models/part").startswith("models/part holds")


IMAGES = "a recipe with donors holds pixels of images whose licence is non-commercial"
TEXTURES = "pixels of 3 textures travel with this recipe"
MIXED = "pixels of 3 donor images, textures among them, travel with this recipe"


def part(kind):
    return {"donors": {"kind": kind}}


@pytest.mark.parametrize(
    ("recipe", "licence", "expected"),
    [
        (part("procedural"), "CC BY-NC 4.0", []),
        (part("set"), "CC BY-NC 4.0", [IMAGES]),
        (part("set"), "CC BY 4.0", []),
        (part("textures"), "CC BY-NC 4.0", [TEXTURES]),
        (part("textures"), "", [TEXTURES]),
        ({"donors": None, "parts": [part("set"), part("textures")]}, "CC BY-NC 4.0",
         [MIXED, IMAGES]),
        ({"parts": [part("textures"), part("procedural"), {}]}, "CC BY-NC 4.0", [MIXED]),
        # Who says nothing of them, or nothing that we know, may have taken them from anywhere.
        ({}, "CC BY-NC 4.0", [IMAGES]),
        ({"donors": "\x1b[2J"}, "CC BY-NC 4.0", [IMAGES]),
        ({"donors": {"kind": ["set"]}, "parts": [7]}, "CC BY-NC 4.0", [IMAGES]),
    ],
)  # fmt: skip
def test_warnings_of_donors_that_travel(recipe, licence, expected):
    found = donor_warnings(recipe, licence, 3)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start) and line.isprintable()
        assert "holds no pixels" not in line


def test_a_licence_from_a_stranger_stays_one_short_line():
    line = pixel_warning("CC BY-NC 4.0\n\x1b[2J\r" + "x" * 10_000)
    assert line.isprintable() and len(line) < 350
    assert "CC BY-NC 4.0" in line and "…" in line
