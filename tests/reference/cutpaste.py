"""CutPaste's colour jitter in floats, one value at a time, and its places by plain loops."""

from __future__ import annotations

from manifests.edits import Copy
from reference.edits import source_pixel


def jittered(patch, brightness, contrast, gains):
    """The patch (rows of (R, G, B)) as rows of float triples, not clipped."""
    bright = [[[brightness * float(v) for v in pixel] for pixel in row] for row in patch]
    greys = [0.299 * r + 0.587 * g + 0.114 * b for row in bright for r, g, b in row]
    mean = sum(greys) / len(greys)
    return [
        [
            [gain * (mean + contrast * (v - mean)) for gain, v in zip(gains, pixel, strict=True)]
            for pixel in row
        ]
        for row in bright
    ]


def turned_places(h, w, angle_cdeg, valid_box, height, width):
    """Corners of all boxes in the valid box whose turned footprint changes no padding."""
    top, left, valid_height, valid_width = valid_box

    def is_padding(y, x):
        is_shown = top <= y < top + valid_height and left <= x < left + valid_width
        return 0 <= y < height and 0 <= x < width and not is_shown

    found = set()
    for y in range(top, top + valid_height - h + 1):
        for x in range(left, left + valid_width - w + 1):
            copy = Copy((0, 0, h, w), (y, x, h, w), angle_cdeg)
            near = h + w
            if not any(
                is_padding(py, px) and source_pixel(copy, py, px) is not None
                for py in range(y - near, y + near)
                for px in range(x - near, x + near)
            ):
                found.add((y, x))
    return found
