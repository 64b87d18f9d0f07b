"""Contact sheets: captioned tiles laid out in rows and columns on white.

Shared by the generator's preview and the detector's report, which draw on the tiles with
`manifests.annotate` first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from manifests.annotate import INK, MUTED, RULE_STRONG, Colour, fit_tile
from manifests.lettering import CAPTION_PX, LINE, clean, ellipsised, font_of, wrapped

Tile = tuple[np.ndarray | None, str]
"""An image and its caption; an image of None is drawn as an empty tile that says the caption."""

_EMPTY: Colour = (245, 245, 245)

_MARGIN_PX = 24
_GAP_PX = 10
_GROUP_GAP_PX = 28
_ROW_GAP_PX = 16
_MIN_COLUMN_PX = 84
_ROW_TITLE_PX = 92
_CAPTION_LINES = 4
_TITLE_PX = 20
_GROUP_PX = 14
_NOTE_PX = 13


def sheet(
    rows: Sequence[Sequence[Tile | None]],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    lead: np.ndarray | None = None,
    groups: Sequence[tuple[str, int]] = (),
    row_titles: Sequence[str] = (),
    legend: np.ndarray | None = None,
    tile_px: int = 192,
) -> np.ndarray:
    """A contact sheet on white.

    Args:
        rows: tiles, row by row; rows may differ in length, None leaves a place blank. Images are
            (H, W, 3) uint8 of any shape, fitted into `tile_px` squares; a column is as wide as its
            widest image. A caption's first line is dark, the others (after "\\n" or wrapped) grey;
            what does not fit four lines ends in an ellipsis.
        title, notes: heading and lines under it, cut to the sheet's width.
        lead: image shown left of the heading.
        groups: (heading, number of columns) from left to right, set apart by a wider gap.
        row_titles: one per row, left of it.
        legend: image below the rows.
        tile_px: longest side of a tile.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: there are row titles, but not one per row.
    """
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows")
    fitted = [
        [
            tile and (None if tile[0] is None else fit_tile(tile[0], tile_px), tile[1])
            for tile in row
        ]
        for row in rows
    ]
    lefts, widths = _columns(fitted, groups, _ROW_TITLE_PX if row_titles else 0, tile_px)
    title_font, font = font_of(_TITLE_PX, bold=True), font_of(_NOTE_PX)
    header_px = (round(_TITLE_PX * LINE) if title else 0) + len(notes) * round(_NOTE_PX * LINE)
    lead = None if lead is None else fit_tile(lead, tile_px)
    text_left = _MARGIN_PX
    if lead is not None:
        header_px, text_left = max(header_px, lead.shape[0]), _MARGIN_PX + lead.shape[1] + 20
    text_px = max((font.getlength(clean(note)) for note in notes), default=0)
    text_px = max(text_px, title_font.getlength(clean(title)))
    tiles_right = max((left + width for left, width in zip(lefts, widths, strict=True)), default=0)
    legend_right = 0 if legend is None else _MARGIN_PX + legend.shape[1]
    # Long headings are cut rather than letting one file name decide how wide the sheet is.
    text_limit = max(tiles_right, legend_right, text_left + 480)
    right = max(tiles_right, legend_right, min(round(text_left + text_px), text_limit))

    captions = [
        [_lines(tile, width) for tile, width in zip(row, widths, strict=False)] for row in fitted
    ]
    heights = [
        max((tile[0].shape[0] for tile in row if tile and tile[0] is not None), default=0)
        or (round(tile_px / 2) if any(row) else 0)
        for row in fitted
    ]
    line = round(CAPTION_PX * LINE)
    row_px = [
        height + 4 + line * max(map(len, lines), default=0)
        for height, lines in zip(heights, captions, strict=True)
    ]
    top = _MARGIN_PX + (header_px + _ROW_GAP_PX if header_px else 0)
    group_px = round(_GROUP_PX * LINE) + 8 if groups else 0
    total = top + group_px + sum(row_px) + _ROW_GAP_PX * max(len(rows) - 1, 0)
    total += 0 if legend is None else legend.shape[0] + _ROW_GAP_PX
    canvas = Image.new("RGB", (right + _MARGIN_PX, total + _MARGIN_PX), "white")
    draw = ImageDraw.Draw(canvas)

    _draw_header(canvas, draw, title, notes, lead, text_left, right - text_left)
    _draw_groups(draw, groups, lefts, widths, top)
    y = top + group_px
    for index, (row, lines, height) in enumerate(zip(fitted, captions, heights, strict=True)):
        if row_titles:
            _draw_row_title(draw, row_titles[index], y)
        for tile, text, left, width in zip(row, lines, lefts, widths, strict=False):
            if tile is not None:
                _draw_tile(canvas, draw, tile, text, (left, y, width, height))
        y += row_px[index] + _ROW_GAP_PX
    if legend is not None:
        canvas.paste(Image.fromarray(legend), (_MARGIN_PX, y))
    return np.asarray(canvas).copy()


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Sheets below one another, (H, W, 3) uint8, narrower ones filled up with white."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [
            np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
            for picture in pictures
        ]
    )


def _columns(
    fitted: list[list], groups: Sequence[tuple[str, int]], indent: int, tile_px: int
) -> tuple[list[int], list[int]]:
    """Left edges and widths of the columns."""
    count = max(map(len, fitted), default=0)
    starts = set(np.cumsum([number for _, number in groups]).tolist())
    lefts, widths, x = [], [], _MARGIN_PX + indent
    for column in range(count):
        tiles = [row[column] for row in fitted if column < len(row) and row[column]]
        shown = [image.shape[1] for image, _ in tiles if image is not None]
        width = max(shown, default=tile_px if tiles else _MIN_COLUMN_PX)
        x += 0 if column == 0 else _GROUP_GAP_PX if column in starts else _GAP_PX
        lefts.append(x)
        widths.append(max(width, _MIN_COLUMN_PX))
        x += widths[-1]
    return lefts, widths


def _draw_groups(
    draw: ImageDraw.ImageDraw,
    groups: Sequence[tuple[str, int]],
    lefts: list[int],
    widths: list[int],
    top: int,
) -> None:
    font, column = font_of(_GROUP_PX, bold=True), 0
    for heading, count in groups:
        span = range(column, min(column + count, len(lefts)))
        column += count
        if span:
            start, stop = lefts[span[0]], lefts[span[-1]] + widths[span[-1]]
            text = ellipsised(clean(heading), font, stop - start)
            draw.text((start, top), text, fill=INK, font=font)
            rule = top + round(_GROUP_PX * LINE) + 1
            draw.line((start, rule, stop - 1, rule), fill=RULE_STRONG)


def _draw_row_title(draw: ImageDraw.ImageDraw, title: str, y: int) -> None:
    font = font_of(_NOTE_PX, bold=True)
    for n, text in enumerate(wrapped(title, font, _ROW_TITLE_PX - 8)[:_CAPTION_LINES]):
        draw.text((_MARGIN_PX, y + n * round(_NOTE_PX * LINE)), text, fill=INK, font=font)


def _draw_header(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    title: str,
    notes: Sequence[str],
    lead: np.ndarray | None,
    left: int,
    width: int,
) -> None:
    y = _MARGIN_PX
    if lead is not None:
        canvas.paste(Image.fromarray(lead), (_MARGIN_PX, y))
        _frame(draw, _MARGIN_PX, y, lead.shape)
    if title:
        font = font_of(_TITLE_PX, bold=True)
        draw.text((left, y), ellipsised(clean(title), font, width), fill=INK, font=font)
        y += round(_TITLE_PX * LINE)
    for note in notes:
        font = font_of(_NOTE_PX)
        draw.text((left, y), ellipsised(clean(note), font, width), fill=MUTED, font=font)
        y += round(_NOTE_PX * LINE)


def _draw_tile(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    lines: list[tuple[str, Colour]],
    cell: tuple[int, int, int, int],
) -> None:
    x, y, width, height = cell
    image, text = tile
    line = round(CAPTION_PX * LINE)
    if image is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY, outline=RULE_STRONG)
        words = wrapped(text, font_of(CAPTION_PX), width - 12)
        start = y + (height - line * len(words)) // 2
        for n, part in enumerate(words):
            spot = (x + width // 2, start + n * line)
            draw.text(spot, part, fill=MUTED, font=font_of(CAPTION_PX), anchor="ma")
        return
    shape = image.shape
    top = y + height - shape[0]  # on the caption, which it belongs to
    canvas.paste(Image.fromarray(image), (x, top))
    _frame(draw, x, top, shape)
    for n, (part, colour) in enumerate(lines):
        draw.text((x, y + height + 4 + n * line), part, fill=colour, font=font_of(CAPTION_PX))


def _frame(draw: ImageDraw.ImageDraw, x: int, y: int, shape: tuple[int, ...]) -> None:
    draw.rectangle((x - 1, y - 1, x + shape[1], y + shape[0]), outline=RULE_STRONG)


def _lines(tile: Tile | None, width: int) -> list[tuple[str, Colour]]:
    """A tile's caption as coloured lines; an empty tile says it inside instead."""
    if tile is None or tile[0] is None or not tile[1]:
        return []
    first, *rest = tile[1].split("\n")
    dark = wrapped(first, font_of(CAPTION_PX), width)
    grey = [part for text in rest for part in wrapped(text, font_of(CAPTION_PX), width)]
    lines = [(part, INK) for part in dark[: max(1, _CAPTION_LINES - len(grey))]]
    if len(lines) < len(dark):
        lines[-1] = (ellipsised(lines[-1][0] + "…", font_of(CAPTION_PX), width), INK)
    lines += [(part, MUTED) for part in grey]
    if len(lines) > _CAPTION_LINES:
        text, colour = lines[_CAPTION_LINES - 1]
        lines[_CAPTION_LINES - 1] = (ellipsised(text + "…", font_of(CAPTION_PX), width), colour)
    return lines[:_CAPTION_LINES]
