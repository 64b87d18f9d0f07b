"""An explanation as one picture: the image above, the normals it was compared with below."""

from __future__ import annotations

import numpy as np

from detector.cases import HEAT_HIGH, HEAT_LOW
from detector.explanation import Explanation, Neighbour
from detector.patch_boxes import Box, around
from manifests.annotate import ORANGE, SKY, boxes, colour_bar, fit_tile, outline, overlay
from manifests.sheet import Tile, sheet, stacked

IMAGE_PX, NORMAL_PX = 288, 192

# Around a patch of three cells: enough to see where on the part it lies.
_CONTEXT_CELLS = 4


def explanation_picture(found: Explanation) -> np.ndarray:
    """(H, W, 3) uint8: image, heat map and worst patch; below, the nearest normals.

    Patches are shown as the network sees them, on the canvas; image and heat map are in the
    proportions of the file.
    """
    verdict = "defect" if found.is_defect else "good"
    title = f"{found.path.name}: {found.normalised:.2f} × threshold, {verdict}"
    notes = [
        f"score {found.score:.4g}; {100 * found.p_value:.3g} % of good images score as high "
        "or higher",
    ]
    if found.is_known:
        notes.append("The model was fitted to this very image: it is compared with itself.")
    top = sheet(
        [_image_tiles(found)],
        title=title,
        notes=notes,
        legend=colour_bar(
            low=HEAT_LOW, high=HEAT_HIGH, mark=1.0, label="pixel score / pixel threshold"
        ),
        tile_px=IMAGE_PX,
    )
    return stacked([top, _neighbour_sheet(found)])


def _image_tiles(found: Explanation) -> list[Tile]:
    image, heat = fit_tile(found.original, IMAGE_PX), fit_tile(found.heat, IMAGE_PX)
    drawn = overlay(image, heat, low=HEAT_LOW, high=HEAT_HIGH)
    drawn = outline(drawn, heat > 1, SKY, width_px=1)
    if found.canvas_box is None or found.source_box is None or found.cell is None:
        return [(image, "image"), (drawn, "heat map\noutlined: called defective")]
    box = _scaled(found.source_box, found.original.shape[:2], image.shape[:2])
    row, column = found.cell
    return [
        (boxes(image, [box], [ORANGE]), "image\nboxed: its worst patch"),
        (boxes(drawn, [box], [ORANGE]), "heat map\noutlined: called defective"),
        (
            _close_up(found.canvas, found.canvas_box, found.grid, IMAGE_PX),
            f"the worst patch, as the network sees it\nrow {row}, column {column}; "
            f"{found.distance:.4g} from the nearest normal patch",
        ),
    ]


def _neighbour_sheet(found: Explanation) -> np.ndarray:
    count = len(found.neighbours)
    if found.grid is None:
        tiles: list[Tile] = [_reference_tile(n, one) for n, one in enumerate(found.neighbours)]
        return sheet([tiles], groups=[("Most similar references", count)], tile_px=NORMAL_PX)
    heading = "Nearest normal patches in the bank, as the network sees them"
    if all(one.canvas is None for one in found.neighbours):
        tiles = [
            (None, f"{_name(one)} · {_where(one)} · distance {one.distance:.4g}")
            for one in found.neighbours
        ]
        ways = "pass --data DATA or --set SHARDS"
        if all(one.normal is None for one in found.neighbours):
            ways = "pass the set that the model was fitted on, --set SHARDS"
        note = f"The model keeps no pixels of its normals. To see these patches, {ways}."
        return sheet([tiles], groups=[(heading, count)], notes=[note], tile_px=NORMAL_PX)
    patches: list[Tile] = []
    wholes: list[Tile] = []
    for number, one in enumerate(found.neighbours):
        if one.canvas is None or one.canvas_box is None:
            patches.append((None, _where(one)))
            wholes.append((None, _name(one)))
            continue
        close = _close_up(one.canvas, one.canvas_box, found.grid, NORMAL_PX)
        patches.append((close, f"{number + 1}. distance {one.distance:.4g}\n{_where(one)}"))
        whole = fit_tile(one.canvas, NORMAL_PX)
        box = _scaled(one.canvas_box, one.canvas.shape[:2], whole.shape[:2])
        wholes.append((boxes(whole, [box], [ORANGE]), _name(one)))
    return sheet([patches, wholes], groups=[(heading, count)], tile_px=NORMAL_PX)


def _reference_tile(number: int, one: Neighbour) -> Tile:
    role = "guided the segmentation" if number == 0 else "not used"
    return one.canvas, f"{_name(one)}\ncosine similarity {1.0 - one.distance:.4f}, {role}"


def _close_up(
    canvas: np.ndarray, box: Box, grid: tuple[int, int] | None, tile_px: int
) -> np.ndarray:
    """A patch with what is around it, boxed."""
    assert grid is not None
    height, width = canvas.shape[:2]
    context = round(_CONTEXT_CELLS * min(height / grid[0], width / grid[1]))
    y, x, h, w = around(box, context, (height, width))
    tile = fit_tile(canvas[y : y + h, x : x + w], tile_px)
    inside = (box[0] - y, box[1] - x, box[2], box[3])
    return boxes(tile, [_scaled(inside, (h, w), tile.shape[:2])], [ORANGE])


def _scaled(box: Box, of: tuple[int, ...], to: tuple[int, ...]) -> Box:
    """A box of an image of one shape on a copy of another."""
    spans = []
    for axis in (0, 1):
        low = round(box[axis] * to[axis] / of[axis])
        high = round((box[axis] + box[axis + 2]) * to[axis] / of[axis])
        spans.append((low, max(1, high - low)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _name(one: Neighbour) -> str:
    if one.normal is not None:
        return one.normal.source
    return "a reference" if one.image_index is None else f"normal number {one.image_index}"


def _where(one: Neighbour) -> str:
    if one.cell is None:
        return "its cell is not known"
    return f"row {one.cell[0]}, column {one.cell[1]}"
