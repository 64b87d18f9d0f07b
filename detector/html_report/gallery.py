"""The gallery: controls, the list of test images, and the view of a single one."""

from __future__ import annotations

from collections.abc import Sequence

from detector.cases import HEAT_HIGH, HEAT_LOW
from detector.html_report.markup import Markup, Value, element
from detector.html_report.pictures import heat_ramp_uri
from detector.html_report.shown_image import ShownImage
from detector.html_report.words import VERDICTS, badge_shape, thousands

SORTS = (
    ("worst", "worst first"),
    ("high", "highest score first"),
    ("low", "lowest score first"),
    ("name", "by name"),
)
_GROUPS = (("missed", "Missed"), ("false-alarm", "False alarms"), ("right", "Right"))


def gallery(images: Sequence[ShownImage], *, total: int) -> Markup:
    """Controls, images and the single view.

    Args:
        images: in the order of the page, the worst first.
        total: of the test images, those that are not shown among them.
    """
    with_category = len({image.category for image in images}) > 1
    items = [image.item(number, with_category=with_category) for number, image in enumerate(images)]
    left_out = None
    if len(images) < total:
        words = (
            f"{thousands(len(images))} of {thousands(total)} test images are shown: the misses and "
            "false alarms first, then those nearest to the threshold."
        )
        left_out = element("p", {"class": "note"}, words)
    return element(
        "div",
        {"class": "test-images"},
        left_out,
        _controls(images, with_category=with_category),
        _scale(),
        element("ul", {"class": "gallery", "id": "images"}, *items),
        element("p", {"class": "none", "id": "none", "hidden": True}, "No image is like that."),
        _viewer(),
    )


def _controls(images: Sequence[ShownImage], *, with_category: bool) -> Markup:
    groups = [VERDICTS[image.verdict].group for image in images]
    verdicts = [_choice("", "All", len(images), is_pressed=True)]
    verdicts += [_choice(key, word, groups.count(key)) for key, word in _GROUPS]
    kinds = sorted({image.defect for image in images})
    categories = sorted({image.category for image in images})
    return element(
        "div",
        {"class": "controls", "id": "controls", "hidden": True},
        element("div", {"class": "choices", "role": "group", "aria-label": "Verdict"}, *verdicts),
        _select("category", "Category", [("", "all"), *((one, one) for one in categories)])
        if with_category
        else None,
        _select("defect", "Defect type", [("", "all"), *((one, one) for one in kinds)]),
        _select("sort", "Order", SORTS),
        element(
            "label",
            {"class": "field"},
            element("span", {}, "Name"),
            element("input", {"type": "search", "id": "search", "autocomplete": "off"}),
        ),
        layer_buttons(),
        element("p", {"class": "status", "id": "status", "role": "status"}, ""),
    )


def layer_buttons() -> Markup:
    """What is laid over the images: the heat map, the border of the ground truth."""
    return element(
        "div",
        {"class": "choices", "role": "group", "aria-label": "Over the images"},
        *(
            element(
                "button",
                {"type": "button", "class": "layer", "data-layer": key, "aria-pressed": "true"},
                word,
            )
            for key, word in (("heat", "Heat map"), ("truth", "Ground truth"))
        ),
    )


def _scale() -> Markup:
    """What the heat maps' colours mean."""
    ramp: dict[str, Value] = {
        "class": "ramp",
        "alt": "to",
        "width": 90,
        "height": 10,
        "src": heat_ramp_uri(),
    }
    return element(
        "p",
        {"class": "scale"},
        element("span", {}, f"Heat map: {HEAT_LOW:g}"),
        element("img", ramp),
        element("span", {}, f"{HEAT_HIGH:g} of the pixel threshold. Number and bar: the image's "
                "score over its threshold, the notch at 1."),
    )  # fmt: skip


def _choice(key: str, word: str, count: int, *, is_pressed: bool = False) -> Markup:
    return element(
        "button",
        {
            "type": "button",
            "class": "choice",
            "data-verdict": key,
            "aria-pressed": "true" if is_pressed else "false",
        },
        badge_shape("found" if key == "right" else key) if key else None,
        f"{word} ",
        element("span", {"class": "number"}, thousands(count)),
    )


def _select(name: str, label: str, choices: Sequence[tuple[str, str]]) -> Markup:
    options = [element("option", {"value": value}, word) for value, word in choices]
    return element(
        "label",
        {"class": "field"},
        element("span", {}, label),
        element("select", {"id": name, "autocomplete": "off"}, *options),
    )


def _viewer() -> Markup:
    close = {"type": "button", "id": "close", "class": "plain", "aria-label": "Close"}
    return element(
        "dialog",
        {"id": "viewer", "aria-labelledby": "viewer-name"},
        element(
            "div",
            {"class": "viewer-head"},
            element("h3", {"id": "viewer-name"}, ""),
            element("button", close, "✕"),
        ),
        element("div", {"id": "viewer-picture", "class": "viewer-picture"}, ""),
        element("div", {"id": "viewer-caption", "class": "viewer-caption"}, ""),
        element(
            "div",
            {"class": "viewer-foot"},
            element("button", {"type": "button", "id": "before"}, "← Previous"),
            element("span", {"id": "viewer-place", "class": "number", "role": "status"}, ""),
            element("button", {"type": "button", "id": "after"}, "Next →"),
            layer_buttons(),
        ),
    )
