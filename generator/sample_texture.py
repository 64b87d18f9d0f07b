"""Everything grainy in the sample data: brushing, turning marks, engraving, the woven belt.

All textures are laid out in part coordinates (design units), so they turn and move with the part.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from generator.sample_scene import Scene

_YARN_PITCH = 5.2

_MARK_PX_PER_UNIT = 4

_BELT = np.array([0.040, 0.056, 0.054], np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Gaussian noise of unit variance and correlation length `sigma_px`, float32.

    Coarse noise is drawn on a coarser grid: it costs a fraction and looks the same.
    """
    stride = max(1, int(sigma_px / 2))
    small = (-(-shape[0] // stride) + 1, -(-shape[1] // stride) + 1)
    noise: np.ndarray = rng.standard_normal(small, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(sigma_px / stride, 0.3))
    noise = (noise - noise.mean()) / max(float(noise.std()), 1e-6)
    if stride > 1:
        full = (small[1] * stride, small[0] * stride)
        noise = cv2.resize(noise, full, interpolation=cv2.INTER_LINEAR)
    return noise[: shape[0], : shape[1]]


def brushed(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, sharp: float, scene: Scene
) -> np.ndarray:
    """Straight brushing: fine and broad streaks of limited length along the brushing direction."""
    cos, sin = (
        math.cos(math.radians(scene.brushing_deg)),
        math.sin(math.radians(scene.brushing_deg)),
    )
    along, across = cos * x + sin * y, -sin * x + cos * y
    fine: np.ndarray = rng.standard_normal((512, 256), dtype=np.float32)
    fine = cv2.blur(cv2.blur(fine, (41, 1), borderType=cv2.BORDER_REFLECT), (15, 1))
    broad = cv2.GaussianBlur(
        rng.standard_normal((512, 256), dtype=np.float32), (0, 0), sigmaX=30.0, sigmaY=3.0
    )
    texture = fine / fine.std() + 0.6 * broad / broad.std()
    return _sample(texture, across * 2.0 + 256, along * 1.0 + 128)


def turned_rings(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> np.ndarray:
    """Turning marks: concentric grooves of one feed, uneven along the circle."""
    rings: np.ndarray = rng.standard_normal((256, 512), dtype=np.float32)
    rings = cv2.blur(rings, (121, 1), borderType=cv2.BORDER_REFLECT)
    rings = rings / rings.std()
    feed = np.sin(np.arange(256, dtype=np.float32) * (2 * math.pi / 7.0) + rng.uniform(0, 6.28))
    texture = 0.85 * rings + 0.5 * feed[:, None]
    # Mirrored in the angle, so that the texture closes around the circle without a seam.
    angle = np.abs(cv2.phase(x, y) - np.float32(math.pi)) * np.float32(511 / math.pi)
    return _sample(texture, radius * 3.0, angle)


def artwork(rng: np.random.Generator) -> np.ndarray:
    """Engraved type number and a dot-peened data matrix that differs per part, 0..1."""
    scale = _MARK_PX_PER_UNIT
    plate = np.zeros((120 * scale, 224 * scale), np.uint8)  # centred on the origin
    middle_y, middle_x = plate.shape[0] // 2, plate.shape[1] // 2

    def place(ux: float, uy: float) -> tuple[int, int]:
        return round(middle_x + ux * scale), round(middle_y + uy * scale)

    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(plate, "BR40", place(78.5, -3.0), font, 1.05, 255, 5, cv2.LINE_AA)
    cv2.putText(plate, "6082", place(78.5, 9.0), font, 1.05, 255, 5, cv2.LINE_AA)
    cv2.line(plate, place(80, 14.5), place(98, 14.5), 255, 4, cv2.LINE_AA)
    dots = rng.random((10, 10)) < 0.5
    dots[:, 0] = dots[-1, :] = True  # the finder pattern: a solid L and two alternating sides
    dots[0, :] = np.arange(10) % 2 == 0
    dots[:, -1] = np.arange(10) % 2 == 1
    for row, col in zip(*np.nonzero(dots), strict=True):
        cv2.circle(plate, place(-96.0 + 1.9 * col, -8.5 + 1.9 * row), 3, 170, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(plate, (0, 0), 1.2).astype(np.float32) / 255.0


def engraving(artwork: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The artwork (centred on the origin) at part coordinates, 0 outside it."""
    scale = _MARK_PX_PER_UNIT
    return cv2.remap(
        artwork,
        (x * scale + artwork.shape[1] // 2).astype(np.float32),
        (y * scale + artwork.shape[0] // 2).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )


def belt(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, sharp: float
) -> tuple[np.ndarray, np.ndarray]:
    """A woven conveyor belt: colour (Hs, Ws, 3) and relief (Hs, Ws), with wear and lint."""
    turn = math.radians(rng.normal(38.0, 1.0))
    tile = _weave_tile()
    scale = len(tile) / (2 * _YARN_PITCH)  # the pattern repeats after two yarns
    along = (math.cos(turn) * x + math.sin(turn) * y) * np.float32(scale)
    across = (math.cos(turn) * y - math.sin(turn) * x) * np.float32(scale)
    start = rng.uniform(0, len(tile), 2).astype(np.float32)
    weave = _sample(tile, across + start[0], along + start[1])
    grain = smooth_noise(rng, x.shape, 0.6 * sharp)
    wear = smooth_noise(rng, x.shape, 22.0 * sharp)
    relief = 0.55 * weave + 0.10 * grain
    tone = 0.62 + 0.42 * weave + 0.08 * grain + 0.05 * wear
    return (np.maximum(tone, 0.1)[..., None] * _BELT).astype(np.float32), relief.astype(np.float32)


def _weave_tile() -> np.ndarray:
    """One repeat of a plain weave, two yarns by two: the height of the yarn on top, (96, 96)."""
    phase = ((np.arange(96) + 0.5) * (math.pi / 48.0)).astype(np.float32)
    warp, weft = np.sin(phase)[None, :], np.sin(phase)[:, None]
    is_warp_on_top = warp * weft > 0
    return np.where(is_warp_on_top, np.abs(warp), np.abs(weft)).astype(np.float32)


def _sample(texture: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Read a texture at real-valued positions, repeating it in both directions."""
    return cv2.remap(
        texture,
        col.astype(np.float32, copy=False),
        row.astype(np.float32, copy=False),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
