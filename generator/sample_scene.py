"""One shot of the sample data: the pose, the light and the camera, and where the part then lies.

Everything is drawn in design units: a picture shows at least 270×243 of them, whatever its size in
pixels. The origin is the centre of the part, x to the right, y down, z towards the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

DESIGN_HEIGHT: Final = 243

DESIGN_WIDTH: Final = 270

SUPERSAMPLE: Final = 2


@dataclass(frozen=True)
class Scene:
    """What varies from picture to picture of the same kind of part.

    Angles are in degrees, `shift` (y, x) in design units, `light_azimuth_deg` the side the light
    comes from (0 = right, 90 = below), `light_gradient` (y, x) the relative change of the light
    over the picture, `vignette` the loss in the corners, `blur_units` the lens blur (sigma),
    `white_balance` one gain per RGB channel, `screw_turns_deg` the angle of each screw's socket,
    `texture_seed` the seed of everything grainy (finish, belt, dust, data matrix).
    """

    height: int
    width: int
    angle_deg: float
    shift: tuple[float, float]
    light_azimuth_deg: float
    light_elevation_deg: float
    light_gain: float
    light_gradient: tuple[float, float]
    ambient: float
    vignette: float
    blur_units: float
    white_balance: tuple[float, float, float]
    screw_turns_deg: tuple[float, ...]
    brushing_deg: float
    texture_seed: int

    @property
    def unit_px(self) -> float:
        """Output pixels per design unit."""
        return min(self.height / DESIGN_HEIGHT, self.width / DESIGN_WIDTH)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw the pose, light and texture seed of one picture of `height`×`width` output pixels.

    Source: ours; the spread is that of a part laid down by hand under one fixed lamp.
    """
    return Scene(
        height=height,
        width=width,
        angle_deg=float(rng.uniform(-4.0, 4.0)),
        shift=(float(rng.uniform(-6.0, 6.0)), float(rng.uniform(-7.0, 7.0))),
        light_azimuth_deg=float(rng.normal(232.0, 5.0)),
        light_elevation_deg=float(rng.normal(54.0, 2.0)),
        light_gain=float(rng.uniform(0.93, 1.07)),
        light_gradient=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        ambient=float(rng.uniform(0.9, 1.1)),
        vignette=float(rng.uniform(0.10, 0.20)),
        blur_units=float(rng.uniform(0.50, 0.62)),
        white_balance=(float(rng.normal(1.0, 0.012)), 1.0, float(rng.normal(1.0, 0.012))),
        screw_turns_deg=tuple(float(a) for a in rng.uniform(0.0, 60.0, 4)),
        brushing_deg=float(rng.normal(0.0, 1.5)),
        texture_seed=int(rng.integers(2**63)),
    )


def grid_position(scene: Scene, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Supersampled pixel position (column, row) of points given in part coordinates.

    The position of a pixel's centre is a whole number, as OpenCV's drawing functions count.
    """
    turn = math.radians(scene.angle_deg)
    sharp = scene.unit_px * SUPERSAMPLE
    u = math.cos(turn) * x - math.sin(turn) * y + scene.shift[1]
    v = math.sin(turn) * x + math.cos(turn) * y + scene.shift[0]
    col = u * sharp + 0.5 * scene.width * SUPERSAMPLE - 0.5
    row = v * sharp + 0.5 * scene.height * SUPERSAMPLE - 0.5
    return col, row


def part_coordinates(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Part coordinates (x, y) of the centre of every supersampled pixel, float32 (Hs, Ws)."""
    step = 1.0 / (SUPERSAMPLE * scene.unit_px)
    rows = (np.arange(scene.height * SUPERSAMPLE, dtype=np.float32) + 0.5) * step
    cols = (np.arange(scene.width * SUPERSAMPLE, dtype=np.float32) + 0.5) * step
    v = (rows - 0.5 * scene.height / scene.unit_px - scene.shift[0])[:, None]
    u = (cols - 0.5 * scene.width / scene.unit_px - scene.shift[1])[None, :]
    cos, sin = math.cos(math.radians(scene.angle_deg)), math.sin(math.radians(scene.angle_deg))
    return (cos * u + sin * v).astype(np.float32), (-sin * u + cos * v).astype(np.float32)


def grid_window(scene: Scene, x: float, y: float, half: float) -> tuple[slice, slice]:
    """Row and column range of the grid that holds all pixels within `half` units of a point."""
    col, row = grid_position(scene, np.asarray(x), np.asarray(y))
    reach = half * scene.unit_px * SUPERSAMPLE
    return (
        slice(max(0, math.floor(row - reach)), max(0, math.ceil(row + reach))),
        slice(max(0, math.floor(col - reach)), max(0, math.ceil(col + reach))),
    )
