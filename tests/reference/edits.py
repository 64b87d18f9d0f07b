"""Edits rendered one pixel at a time in plain Python integers, straight from docs/formats.md."""

import math

import numpy as np

from manifests.edits import Copy


def colour(value, gain_q8, offset):
    return min(max((value * gain_q8 + 256 * offset + 128) >> 8, 0), 255)


def source_pixel(copy, py, px):
    """Row and column in the source box of the image pixel (py, px), or None outside the turn."""
    y, x, h, w = copy.dst
    radians = copy.angle_cdeg / 100 * math.pi / 180
    c = round(math.cos(radians) * 65536)
    s = round(math.sin(radians) * 65536)
    u = 2 * py - (2 * y + h - 1)
    v = 2 * px - (2 * x + w - 1)
    i = (c * u + s * v + ((h - 1) << 16) + (1 << 16)) >> 17
    j = (-s * u + c * v + ((w - 1) << 16) + (1 << 16)) >> 17
    return (i, j) if 0 <= i < h and 0 <= j < w else None


def seam(copy, i, j, copied, under):
    """The value written where `copied` from row i, column j of the box fades into `under`."""
    h, w = copy.src[2:]
    f = copy.feather_px
    d = min(i, h - 1 - i, j, w - 1 - j)
    a = 255 if f == 0 else min(255, ((d + 1) * 255) // (f + 1))
    return (a * copied + (255 - a) * under + 127) // 255


def turned_donor(donor, transform):
    """The donor as a list of rows of (R, G, B), turned and mirrored."""
    rows, columns = len(donor), len(donor[0])
    pixels = [[tuple(int(v) for v in donor[r][c]) for c in range(columns)] for r in range(rows)]
    for _ in range(transform.quarter_turns):  # counter-clockwise: the last column becomes the top
        pixels = [[pixels[r][columns - 1 - k] for r in range(rows)] for k in range(columns)]
        rows, columns = columns, rows
    if transform.flip_y:
        pixels = pixels[::-1]
    if transform.flip_x:
        pixels = [row[::-1] for row in pixels]
    return pixels


def donor_pixel(pixels, transform, y, x):
    """The (R, G, B) of a turned donor that comes to lie under the image pixel (y, x)."""
    dy, dx = transform.shift
    values = pixels[(y + dy) % len(pixels)][(x + dx) % len(pixels[0])]
    if transform.lut is not None:
        values = tuple(int(transform.lut[k][v]) for k, v in enumerate(values))
    return values


def render(normal, edits, donors):
    height, width = normal.shape[:2]
    image = [[tuple(int(v) for v in normal[y, x]) for x in range(width)] for y in range(height)]
    mask = [[False] * width for _ in range(height)]
    for edit in edits:
        donor = None if isinstance(edit, Copy) else turned_donor(donors[edit.donor], edit.transform)
        for py in range(height):
            for px in range(width):
                if isinstance(edit, Copy):
                    place = source_pixel(edit, py, px)
                    if place is None:
                        continue
                    sy, sx = edit.src[0] + place[0], edit.src[1] + place[1]
                    values = tuple(int(v) for v in normal[sy, sx])
                    if edit.colour is not None:
                        gains, offsets = edit.colour.gain_q8, edit.colour.offset
                        values = tuple(map(colour, values, gains, offsets))
                    under = (int(v) for v in normal[py, px])
                    values = tuple(
                        seam(edit, *place, value, n) for value, n in zip(values, under, strict=True)
                    )
                else:
                    if not edit.mask[py, px]:
                        continue
                    over = donor_pixel(donor, edit.transform, py, px)
                    under = tuple(int(v) for v in normal[py, px])
                    a = edit.alpha
                    values = tuple(
                        (a * b + (255 - a) * n + 127) // 255
                        for b, n in zip(over, under, strict=True)
                    )
                image[py][px] = values
                mask[py][px] = True
    return np.array(image, dtype=np.uint8), np.array(mask, dtype=bool)
