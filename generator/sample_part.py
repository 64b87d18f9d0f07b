"""The part of the sample data: a machined bearing bracket, as geometry and material.

`build_surface` turns a scene into height, finish and colour per (supersampled) pixel;
`sample_shading` lights it. Lengths are in design units, see `sample_scene`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from generator.sample_scene import SUPERSAMPLE, Scene, grid_window, part_coordinates
from generator.sample_texture import artwork, belt, brushed, engraving, smooth_noise, turned_rings

PLATE_HALF_WIDTH: Final = 106.0

PLATE_HALF_HEIGHT: Final = 57.0

DISC_RADIUS: Final = 77.0

BOSS_RADIUS: Final = 51.0

BORE_RADIUS: Final = 21.0

HEAD_RADIUS: Final = 9.5

SCREWS: Final = ((-87.0, -37.0), (87.0, -37.0), (-87.0, 37.0), (87.0, 37.0))

TAPPED_HOLES: Final = tuple(
    (39.0 * math.cos(math.radians(a)), 39.0 * math.sin(math.radians(a))) for a in (-90, 30, 150)
)

MARKS_X: Final = (-87.0, 89.0)  # centres of the data matrix and of the type number

_PLATE_Z = 15.0

_METAL = np.array([0.50, 0.505, 0.51], np.float32)

_SCREW_STEEL = np.array([0.085, 0.085, 0.09], np.float32)


_Layers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Chip:
    """A piece broken out of an edge: centre and radius in design units, and its ragged outline.

    `is_through`: whether the piece leaves a notch through which the belt shows (outline, bore).
    """

    y: float
    x: float
    radius: float
    phase: float
    is_through: bool


@dataclass(frozen=True, eq=False)
class Surface:
    """Geometry and material of a scene, on the supersampled grid (Hs, Ws), float32.

    `x`, `y`: part coordinates in design units; `cover`: 1 on the part, 0 on the belt; `height`: of
    the part's top in design units above the belt; `tangent_x/_y`: direction of the machining
    grooves in the picture (unit vector); `finish`: how strongly they glint (0..1);
    `streak`: relative brightness of single grooves (mean 0); `gloss`: isotropic shine (0..1);
    `albedo` and `belt_albedo`: (Hs, Ws, 3) linear RGB; `belt_height`: relief of the belt.
    """

    x: np.ndarray
    y: np.ndarray
    cover: np.ndarray
    height: np.ndarray
    tangent_x: np.ndarray
    tangent_y: np.ndarray
    finish: np.ndarray
    streak: np.ndarray
    gloss: np.ndarray
    albedo: np.ndarray
    belt_albedo: np.ndarray
    belt_height: np.ndarray


def plate_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (design units, negative inside) to the outline of the bracket.

    Source: ours; a rounded rectangle and a disc, joined by a polynomial smooth minimum.
    """
    qx = np.abs(x) - (PLATE_HALF_WIDTH - 17.0)
    qy = np.abs(y) - (PLATE_HALF_HEIGHT - 17.0)
    box = _length(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 17.0
    disc = _length(x, y) - DISC_RADIUS
    share: np.ndarray = np.clip(0.5 + 0.5 * (box - disc) / 16.0, 0, 1)
    joined: np.ndarray = box * (1 - share) + disc * share - 16.0 * share * (1 - share)
    return joined


def build_surface(
    scene: Scene, *, chips: Sequence[Chip] = (), missing_screw: int | None = None
) -> Surface:
    """Lay out the part and the belt of a scene on the supersampled pixel grid.

    `missing_screw` is an index into `SCREWS`. The same scene has the same textures with and without
    chips or screws, so that two surfaces differ only where the piece is missing.

    Source: ours.
    """
    rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
    x, y = part_coordinates(scene)
    radius = _length(x, y)
    sharp = scene.unit_px * SUPERSAMPLE  # pixels of the grid per design unit

    outline = plate_distance(x, y)
    bore = radius - BORE_RADIUS
    height = _PLATE_Z - 0.8 * np.clip(outline + 3.2, 0, 3.2)
    height -= 1.0 * _ramp(-np.abs(radius - BOSS_RADIUS - 3.4), -1.8, -0.4)  # relief groove
    height += 6.0 * _ramp(BOSS_RADIUS - radius, 0.0, 2.6)
    height -= 2.6 * _ramp(30.0 - radius, 0.0, 1.2)  # bearing seat
    height -= 0.9 * np.clip(2.4 - bore, 0, 2.4)

    brushing = math.radians(scene.angle_deg + scene.brushing_deg)
    tangent_x = np.full_like(x, math.cos(brushing))
    tangent_y = np.full_like(x, math.sin(brushing))
    streak = brushed(rng, x, y, sharp, scene)
    plate = np.ones_like(x)  # 1 on the brushed plate, 0 on the turned boss
    boss = grid_window(scene, 0.0, 0.0, BOSS_RADIUS + 1.0)
    turned = _ramp(BOSS_RADIUS - 1.0 - radius[boss], -0.6, 0.6)
    plate[boss] -= turned
    is_turned, safe = turned > 0.5, np.maximum(radius[boss], 1e-3)
    ring_x, ring_y = -y[boss] / safe, x[boss] / safe
    cos, sin = math.cos(math.radians(scene.angle_deg)), math.sin(math.radians(scene.angle_deg))
    tangent_x[boss] = np.where(is_turned, ring_x * cos - ring_y * sin, tangent_x[boss])
    tangent_y[boss] = np.where(is_turned, ring_x * sin + ring_y * cos, tangent_y[boss])
    streak[boss] *= 1 - turned
    streak[boss] += turned_rings(rng, x[boss], y[boss], radius[boss]) * turned
    tone = np.ones_like(x) + 0.025 * smooth_noise(rng, x.shape, 14.0 * sharp)
    tone *= 1.0 - 0.05 * plate
    finish = np.ones_like(x)
    gloss = np.full_like(x, 0.25)
    albedo = tone[..., None] * _METAL

    for cx, cy in TAPPED_HOLES:
        box = grid_window(scene, cx, cy, 7.0)
        hole = _length(x[box] - cx, y[box] - cy) - 3.4
        inside = _ramp(-hole, -0.3, 0.5)
        height[box] -= 0.8 * np.clip(1.2 - hole, 0, 1.2) + 6.0 * inside
        finish[box] *= 1 - inside
        albedo[box] *= (1 - 0.9 * inside)[..., None]
    drawing = artwork(rng)
    for mark_x in MARKS_X:
        box = grid_window(scene, mark_x, 0.0, 22.0)
        marks = engraving(drawing, x[box], y[box])
        height[box] -= 0.55 * marks
        finish[box] *= 1 - 0.55 * marks
        albedo[box] *= (1 - 0.40 * marks)[..., None]

    for index, (cx, cy) in enumerate(SCREWS):
        box = grid_window(scene, cx, cy, 14.0)
        layers = (height[box], finish[box], gloss[box], streak[box], albedo[box])
        _add_counterbore(layers, x[box] - cx, y[box] - cy)
        if index == missing_screw:
            _add_bare_hole(layers, x[box] - cx, y[box] - cy)
        else:
            turn = math.radians(scene.screw_turns_deg[index])
            _add_screw(layers, x[box] - cx, y[box] - cy, turn)

    cover = _ramp(np.minimum(-outline, bore), -0.5 / sharp, 0.5 / sharp)
    for chip in chips:
        box = grid_window(scene, chip.x, chip.y, 1.4 * chip.radius + 2.0)
        layers = (height[box], finish[box], gloss[box], streak[box], albedo[box])
        grain = np.random.Generator(np.random.PCG64([scene.texture_seed, 1]))
        facets = smooth_noise(grain, height[box].shape, 0.9 * sharp)
        depth = chip_depth(chip, x[box], y[box])
        _add_break(layers, depth, facets, deepest=5.0 if chip.is_through else 4.0)
        if chip.is_through:
            notch = _ramp(depth - 0.42 * chip.radius, -0.5 / sharp, 0.5 / sharp)
            cover[box] *= 1 - notch

    belt_albedo, belt_height = belt(rng, x, y, sharp)
    return Surface(
        x=x,
        y=y,
        cover=cover.astype(np.float32),
        height=height.astype(np.float32),
        tangent_x=tangent_x.astype(np.float32),
        tangent_y=tangent_y.astype(np.float32),
        finish=finish.astype(np.float32),
        streak=streak.astype(np.float32),
        gloss=gloss.astype(np.float32),
        albedo=albedo.astype(np.float32),
        belt_albedo=belt_albedo,
        belt_height=belt_height,
    )


def chip_depth(chip: Chip, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of each point inside a chip's ragged outline, in design units (negative outside)."""
    dx, dy = x - chip.x, y - chip.y
    angle = np.arctan2(dy, dx)
    ragged: np.ndarray = (
        0.16 * np.sin(3 * angle + chip.phase)
        + 0.11 * np.sin(5 * angle + 2.3 * chip.phase)
        + 0.06 * np.sin(11 * angle + 4.1 * chip.phase)
    )
    inside: np.ndarray = chip.radius * (1 + ragged) - _length(dx, dy)
    return inside


def _add_counterbore(layers: _Layers, dx: np.ndarray, dy: np.ndarray) -> None:
    """Sink the seat of a screw head into (height, finish, gloss, streak, albedo), in place."""
    height, finish, _, streak, _ = layers
    bore = _ramp(12.5 - _length(dx, dy), 0.0, 0.9)
    height -= 3.0 * bore
    finish *= 1 - 0.75 * bore
    streak *= 1 - bore


def _add_bare_hole(layers: _Layers, dx: np.ndarray, dy: np.ndarray) -> None:
    """Write the threaded hole that a missing screw leaves visible, in place."""
    height, finish, _, _, albedo = layers
    radius = _length(dx, dy)
    hole = _ramp(6.2 - radius, -0.4, 0.4)
    height -= 0.9 * np.clip(7.6 - radius, 0, 1.4) + 7.0 * hole
    finish *= 1 - hole
    thread = 0.5 + 0.5 * np.sin(radius * 4.5)
    albedo *= (1 - hole * (0.92 - 0.10 * thread))[..., None]


def _add_screw(layers: _Layers, dx: np.ndarray, dy: np.ndarray, turn: float) -> None:
    """Write a blackened socket-head screw, its socket turned by `turn` radians, in place."""
    height, finish, gloss, _, albedo = layers
    radius = _length(dx, dy)
    head = _ramp(HEAD_RADIUS - radius, -0.3, 0.5)
    # Distance to a hexagon of 4.4 from the centre to its flats.
    hexagon = np.full_like(radius, -np.inf)
    for k in range(3):
        angle = turn + k * math.pi / 3
        hexagon = np.maximum(hexagon, np.abs(dx * math.cos(angle) + dy * math.sin(angle)))
    socket = _ramp(4.4 - hexagon, -0.3, 0.7)
    height += 8.0 * head - 0.7 * np.clip(radius - (HEAD_RADIUS - 1.8), 0, 1.8) * head
    height -= 5.0 * socket
    finish *= 1 - 0.93 * head
    gloss *= 1 - head
    gloss += (0.95 - 0.6 * socket) * head
    tint = head[..., None]
    albedo *= 1 - tint
    albedo += _SCREW_STEEL * (1 - 0.7 * socket[..., None]) * tint


def _add_break(layers: _Layers, depth: np.ndarray, facets: np.ndarray, *, deepest: float) -> None:
    """Write a fracture: a rough, dull slope of at most `deepest` units below the top, in place."""
    height, finish, gloss, streak, albedo = layers
    broken = _ramp(depth, -0.25, 0.35)
    ledge = np.clip(1.3 * depth + 0.5, 0, deepest) + 0.5 * facets
    height -= broken * np.maximum(ledge, 0)
    finish *= 1 - 0.95 * broken
    streak *= 1 - broken
    gloss += 0.35 * broken * np.maximum(facets, 0)
    albedo *= (1 - (0.10 - 0.06 * facets) * broken)[..., None]


def _length(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Euclidean length; NumPy's hypot guards against overflow and costs five times as much."""
    length: np.ndarray = np.sqrt(dx * dx + dy * dy)
    return length


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
