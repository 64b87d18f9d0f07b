"""What a licence of images asks of those who pass their pixels on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from manifests.terminal import counted

NON_COMMERCIAL = "non-commercial"
SHARE_ALIKE = "share-alike"
NO_DERIVATIVES = "no-derivatives"
TERMS = (NON_COMMERCIAL, SHARE_ALIKE, NO_DERIVATIVES)

_SHOWN_CHARACTERS = 80

# Matched against lower-case words with one space between them.
_CREATIVE_COMMONS = re.compile(
    r"\b(?:cc|creative commons(?: org licenses)?)((?: ?(?:by|nc|sa|nd))+)\b"  # "CC BY-NC", URLs
    r"|\bby((?: (?:nc|sa|nd))+)(?= \d)"  # "BY-NC-SA 4.0"
    r"|\bby( nc(?: (?:sa|nd))?)\b"
)
_ELEMENTS = {"nc": NON_COMMERCIAL, "sa": SHARE_ALIKE, "nd": NO_DERIVATIVES}
_PHRASES = {
    NON_COMMERCIAL: re.compile(
        r"\bnon ?commercial|\b(?:no|not for|without) commercial\b"
        r"|\bcommercial (?:use|usage) (?:is )?(?:not|prohibited|forbidden|excluded|requires)\b"
        r"|\b(?:not|cannot|can t|never) (?:to )?(?:be )?(?:used |sold |shared |copied |exploited "
        r"|(?:re)?distributed )?(?:or \w+ )?(?:for )?(?:any )?commercial(?:ly)?\b"
        r"|\bnon ?profit\b|\bresearch licen[cs]e\b"
        r"|\b(?:research|academic|educational|personal|private)(?: use| purposes?)? only\b"
        r"|\bonly for (?:non profit |academic |scientific )?"
        r"(?:research|academic|educational|personal|private)\b"
    ),
    # Besides Creative Commons: the Open Database Licence, CDLA-Sharing, the Free Art Licence and
    # the GNU licences ask for the same licence on what is made from a work.
    SHARE_ALIKE: re.compile(
        r"\bshare ?alike|\bcopyleft\b|\bodbl\b|\bopen database licen[cs]e\b|\bcdla sharing\b"
        r"|\blal 1\b|\bfree art licen[cs]e\b|\bgfdl\b|\ba?gpl(?:v?\d)?\b"
    ),
    NO_DERIVATIVES: re.compile(r"\b(?:no|non) ?deriv"),
}


def terms(licence: str) -> frozenset[str]:
    """Which of `TERMS` a licence has, by its SPDX id or one of its usual spellings.

    Of several licences in one text, as a merged set has them, the terms of all are named.

    Args:
        licence: "CC-BY-NC-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0", an address at
            creativecommons.org, a sentence; empty where unknown.

    Source: ours. It reads names, not licences: what it does not know has no terms here.
    """
    words = re.sub(r"[^a-z0-9]+", " ", licence.lower()).strip()
    found = {term for term, phrase in _PHRASES.items() if phrase.search(words)}
    for match in _CREATIVE_COMMONS.finditer(words):
        elements = next(group for group in match.groups() if group)
        found |= {_ELEMENTS[name] for name in re.findall("nc|sa|nd", elements)}
    return frozenset(found)


def pixel_warning(licence: str, *, holder: str = "this set") -> str | None:
    """What to tell somebody who is about to pass on pixels of images under a licence.

    Args:
        licence: of the images, as a manifest or a model has it.
        holder: what holds the pixels.

    Returns:
        One line, which names the terms and the recipe as the way to share; None where nothing is
        known to stand in the way.
    """
    line = _terms_line(licence, holder)
    return line and f"{line}; a recipe holds no pixels (cutswap-gen export-recipe)"


def donor_warnings(recipe: Mapping[str, Any], licence: str, count: int) -> list[str]:
    """What to tell somebody whose recipe file is about to hold donor images.

    Patterns are ours. Textures have a licence of their own, which no manifest names. All others
    are images of the set that a part of it left out.

    Args:
        recipe: of the set: says what was mixed in, or its `parts` do.
        licence: of the set's images.
        count: of the donors.
    """
    kinds = _donor_kinds(recipe)
    found = []
    if "textures" in kinds:
        images = counted(count, "texture")
        if len(kinds) > 1:
            images = f"{counted(count, 'donor image')}, textures among them,"
        found.append(
            f"pixels of {images} travel with this recipe: the licence of textures is not recorded"
        )
    line = _terms_line(licence, "a recipe with donors")
    if line is not None and not kinds <= {"textures", "procedural"}:
        found.append(line)
    return found


def _donor_kinds(recipe: Mapping[str, Any]) -> set[str]:
    """Where donors come from, of all parts of a merged set; "" where nothing is said of it."""
    parts = recipe.get("parts")
    kinds = set()
    for part in parts if isinstance(parts, list) else [recipe]:
        donors = part.get("donors") if isinstance(part, Mapping) else None
        if donors is not None:
            kinds.add(str(donors.get("kind")) if isinstance(donors, Mapping) else "")
    return kinds or {""}


def _terms_line(licence: str, holder: str) -> str | None:
    found = terms(licence)
    if not found:
        return None
    named = " and ".join(term for term in TERMS if term in found)
    shown = "".join(c for c in " ".join(licence.split()) if c.isprintable())
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 1] + "…"
    return (
        f"{holder} holds pixels of images whose licence is {named} ({shown}): passing it on is "
        "bound by those terms"
    )
