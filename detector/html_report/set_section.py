"""The section on a negative set: maps of anchors, areas, fallbacks, a contact sheet."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from detector.html_report.histogram_plots import area_histogram
from detector.html_report.markup import Markup, element, joined
from detector.html_report.pictures import counts_uri
from detector.html_report.set_facts import PolicyFacts, SetFacts, ShownNegative
from detector.html_report.tables import fallback_table
from detector.html_report.words import thousands
from manifests.schema import FALLBACKS

_MAP_PX = 240


def set_section(facts: SetFacts, *, model_set_digest: str) -> Markup:
    """Everything about one set that was given.

    Args:
        facts: of the set.
        model_set_digest: of the set that the model was fitted on.
    """
    counts = facts.manifest.counts
    told = element(
        "p",
        {"class": "lead"},
        f"{thousands(counts['negatives'])} negatives of {thousands(counts['normals'])} good "
        f"images, made by {', '.join(sorted(facts.manifest.fallbacks)) or 'no policy'}. "
        f"Set digest {facts.digest[:12]}.",
    )
    other = None
    if facts.digest != model_set_digest:
        other = element(
            "p",
            {"class": "warning"},
            f"This is not the set that the model was fitted on, whose digest is "
            f"{model_set_digest[:12]}.",
        )
    parts = [told, other]
    if facts.left_out:
        parts.append(_note(f"{facts.left_out} further policies are left out below."))
    parts.append(element("h4", {}, "Where they lie, and how large they are"))
    if facts.measured < counts["negatives"]:
        parts.append(
            _note(
                f"Areas come from {thousands(facts.measured)} of "
                f"{thousands(counts['negatives'])} masks, evenly spaced."
            )
        )
    parts.append(element("div", {"class": "policies"}, *map(_policy, facts.policies)))
    parts.append(element("h4", {}, "Fallbacks"))
    parts.append(
        _note(
            "Where no pair of patches fits the chosen region, it is shrunk, moved, taken from a "
            "lower cluster or from anywhere."
        )
    )
    parts.append(fallback_table(facts.manifest.fallbacks, FALLBACKS))
    dropped = sum(facts.manifest.counts.get("dropped", {}).values())
    if dropped:
        parts.append(_note(f"{thousands(dropped)} negatives without a visible change: dropped."))
    parts.append(element("h4", {}, "A look at the negatives"))
    parts.append(_note("Each beside the good image it was made from; the mask is outlined."))
    for policy in facts.policies:
        parts.append(element("h5", {}, element("bdi", {}, policy.policy)))
        items = [_negative(policy.policy, one) for one in policy.shown]
        parts.append(element("ul", {"class": "pairs"}, *items))
    return joined(*parts)


def _policy(facts: PolicyFacts) -> Markup:
    rows, columns = facts.grid.shape
    if facts.anchors:
        what = f"{thousands(facts.anchors)} anchors by their centres"
        ends = ("0", f"{thousands(int(facts.grid.max()))} in a cell")
        alt = f"Where the anchors of {facts.policy} lie on the canvas: {_busiest(facts.grid)}"
    else:
        what = "no anchors: how much of each place the masks cover"
        ends = ("0", f"{100 * float(facts.grid.max()):.2g} %")
        alt = f"How much the masks of {facts.policy} cover of each place of the canvas"
    size = {"width": _MAP_PX * columns // max(rows, columns),
            "height": _MAP_PX * rows // max(rows, columns)}  # fmt: skip
    grid = element("img", {"class": "grid-map", "alt": alt, "src": counts_uri(facts.grid), **size})
    scale = element(
        "p",
        {"class": "scale"},
        element("span", {}, ends[0]),
        element(
            "img",
            {"class": "ramp", "alt": "to", "width": 90, "height": 10,
             "src": counts_uri(np.arange(64)[None])},
        ),
        element("span", {}, ends[1]),
    )  # fmt: skip
    middle = f"median {100 * float(np.median(facts.areas)):.2g} %" if len(facts.areas) else ""
    return element(
        "section",
        {"class": "card policy"},
        element("h5", {}, element("bdi", {}, facts.policy)),
        element("p", {"class": "note"}, f"{thousands(facts.count)} negatives · {what}"),
        element("figure", {}, grid, scale),
        element(
            "figure",
            {},
            element("figcaption", {}, f"Area of the mask{', ' + middle if middle else ''}"),
            area_histogram(facts.areas, name=facts.policy),
        ),
    )


def _negative(policy: str, one: ShownNegative) -> Markup:
    level = "" if one.level < 0 else f"level {one.level} · "
    fallback = "" if one.fallback == FALLBACKS[0] else f" · {one.fallback}"
    return element(
        "li",
        {"class": "pair"},
        element(
            "span",
            {"class": "sides"},
            one.normal.layers(alt=f"Good image {one.source}"),
            one.negative.layers(alt=f"Negative of it by {policy}"),
        ),
        element("p", {"class": "kind"}, f"{level}mask {100 * one.area:.2g} %{fallback}"),
        element(
            "p",
            {"class": "name", "title": one.source},
            element("bdi", {}, PurePosixPath(one.source).name),
        ),
    )


def _busiest(grid: np.ndarray) -> str:
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    rows, columns = grid.shape
    return (
        f"most of them, {int(grid.max())}, in a cell {round(100 * (row + 0.5) / rows)} % from the "
        f"top and {round(100 * (column + 0.5) / columns)} % from the left"
    )


def _note(text: str) -> Markup:
    return element("p", {"class": "note"}, text)
