"""The synthetic part of the sample data: a machined bearing bracket, as geometry and material.

Everything is drawn in design units: a picture shows at least 270×243 of them, whatever its size in
pixels. The origin is the centre of the bore, x to the right, y down, z towards the camera.
`draw_scene` draws what varies from picture to picture, `build_surface` turns it into height, finish
and colour per (supersampled) pixel, and `sample_shading` lights it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

DESIGN_HEIGHT: Final = 243
DESIGN_WIDTH: Final = 270
SUPERSAMPLE: Final = 2

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
_YARN_PITCH = 5.2
_MARK_PX_PER_UNIT = 4
_METAL = np.array([0.50, 0.505, 0.51], np.float32)
_SCREW_STEEL = np.array([0.085, 0.085, 0.09], np.float32)
_BELT = np.array([0.040, 0.056, 0.054], np.float32)


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
    screw_turns_deg: tuple[float, float, float, float]
    brushing_deg: float
    texture_seed: int

    @property
    def unit_px(self) -> float:
        """Output pixels per design unit."""
        return min(self.height / DESIGN_HEIGHT, self.width / DESIGN_WIDTH)


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
        screw_turns_deg=tuple(float(a) for a in rng.uniform(0.0, 60.0, 4)),  # type: ignore[arg-type]
        brushing_deg=float(rng.normal(0.0, 1.5)),
        texture_seed=int(rng.integers(2**63)),
    )


def plate_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (design units, negative inside) to the outline of the bracket.

    Source: ours; a rounded rectangle and a disc, joined by a polynomial smooth minimum.
    """
    qx = np.abs(x) - (PLATE_HALF_WIDTH - 17.0)
    qy = np.abs(y) - (PLATE_HALF_HEIGHT - 17.0)
    box = _length(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 17.0
    disc = _length(x, y) - DISC_RADIUS
    share = np.clip(0.5 + 0.5 * (box - disc) / 16.0, 0, 1)
    return box * (1 - share) + disc * share - 16.0 * share * (1 - share)


def build_surface(
    scene: Scene, *, chips: Sequence[Chip] = (), missing_screw: int | None = None
) -> Surface:
    """Lay out the part and the belt of a scene on the supersampled pixel grid.

    `missing_screw` is an index into `SCREWS`. The same scene has the same textures with and without
    chips or screws, so that two surfaces differ only where the piece is missing.

    Source: ours.
    """
    rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
    x, y = _part_coordinates(scene)
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
    streak = _brushed(rng, x, y, sharp, scene)
    plate = np.ones_like(x)  # 1 on the brushed plate, 0 on the turned boss
    boss = _window(scene, 0.0, 0.0, BOSS_RADIUS + 1.0)
    turned = _ramp(BOSS_RADIUS - 1.0 - radius[boss], -0.6, 0.6)
    plate[boss] -= turned
    is_turned, safe = turned > 0.5, np.maximum(radius[boss], 1e-3)
    ring_x, ring_y = -y[boss] / safe, x[boss] / safe
    cos, sin = math.cos(math.radians(scene.angle_deg)), math.sin(math.radians(scene.angle_deg))
    tangent_x[boss] = np.where(is_turned, ring_x * cos - ring_y * sin, tangent_x[boss])
    tangent_y[boss] = np.where(is_turned, ring_x * sin + ring_y * cos, tangent_y[boss])
    streak[boss] *= 1 - turned
    streak[boss] += _turned(rng, x[boss], y[boss], radius[boss]) * turned
    tone = np.ones_like(x) + 0.025 * _smooth_noise(rng, x.shape, 14.0 * sharp)
    tone *= 1.0 - 0.05 * plate
    finish = np.ones_like(x)
    gloss = np.full_like(x, 0.25)
    albedo = tone[..., None] * _METAL

    for cx, cy in TAPPED_HOLES:
        box = _window(scene, cx, cy, 7.0)
        hole = _length(x[box] - cx, y[box] - cy) - 3.4
        inside = _ramp(-hole, -0.3, 0.5)
        height[box] -= 0.8 * np.clip(1.2 - hole, 0, 1.2) + 6.0 * inside
        finish[box] *= 1 - inside
        albedo[box] *= (1 - 0.9 * inside)[..., None]
    artwork = _artwork(rng)
    for mark_x in MARKS_X:
        box = _window(scene, mark_x, 0.0, 22.0)
        marks = _engraving(artwork, x[box], y[box])
        height[box] -= 0.55 * marks
        finish[box] *= 1 - 0.55 * marks
        albedo[box] *= (1 - 0.40 * marks)[..., None]

    for index, (cx, cy) in enumerate(SCREWS):
        box = _window(scene, cx, cy, 14.0)
        layers = (height[box], finish[box], gloss[box], streak[box], albedo[box])
        _add_counterbore(layers, x[box] - cx, y[box] - cy)
        if index == missing_screw:
            _add_bare_hole(layers, x[box] - cx, y[box] - cy)
        else:
            turn = math.radians(scene.screw_turns_deg[index])
            _add_screw(layers, x[box] - cx, y[box] - cy, turn)

    cover = _ramp(np.minimum(-outline, bore), -0.5 / sharp, 0.5 / sharp)
    for chip in chips:
        box = _window(scene, chip.x, chip.y, 1.4 * chip.radius + 2.0)
        layers = (height[box], finish[box], gloss[box], streak[box], albedo[box])
        grain = np.random.Generator(np.random.PCG64([scene.texture_seed, 1]))
        facets = _smooth_noise(grain, height[box].shape, 0.9 * sharp)
        depth = chip_depth(chip, x[box], y[box])
        _add_break(layers, depth, facets, deepest=5.0 if chip.is_through else 4.0)
        if chip.is_through:
            notch = _ramp(depth - 0.42 * chip.radius, -0.5 / sharp, 0.5 / sharp)
            cover[box] *= 1 - notch

    belt_albedo, belt_height = _belt(rng, x, y, sharp)
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
    ragged = (
        0.16 * np.sin(3 * angle + chip.phase)
        + 0.11 * np.sin(5 * angle + 2.3 * chip.phase)
        + 0.06 * np.sin(11 * angle + 4.1 * chip.phase)
    )
    return chip.radius * (1 + ragged) - _length(dx, dy)


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


def _part_coordinates(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Part coordinates (x, y) of the centre of every supersampled pixel, float32 (Hs, Ws)."""
    step = 1.0 / (SUPERSAMPLE * scene.unit_px)
    rows = (np.arange(scene.height * SUPERSAMPLE, dtype=np.float32) + 0.5) * step
    cols = (np.arange(scene.width * SUPERSAMPLE, dtype=np.float32) + 0.5) * step
    v = (rows - 0.5 * scene.height / scene.unit_px - scene.shift[0])[:, None]
    u = (cols - 0.5 * scene.width / scene.unit_px - scene.shift[1])[None, :]
    cos, sin = math.cos(math.radians(scene.angle_deg)), math.sin(math.radians(scene.angle_deg))
    return (cos * u + sin * v).astype(np.float32), (-sin * u + cos * v).astype(np.float32)


def _length(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Euclidean length; NumPy's hypot guards against overflow and costs five times as much."""
    return np.sqrt(dx * dx + dy * dy)


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Gaussian noise of unit variance and correlation length `sigma_px`, float32.

    Coarse noise is drawn on a coarser grid: it costs a fraction and looks the same.
    """
    stride = max(1, int(sigma_px / 2))
    small = (-(-shape[0] // stride) + 1, -(-shape[1] // stride) + 1)
    noise = rng.standard_normal(small, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(sigma_px / stride, 0.3))
    noise = (noise - noise.mean()) / max(float(noise.std()), 1e-6)
    if stride > 1:
        full = (small[1] * stride, small[0] * stride)
        noise = cv2.resize(noise, full, interpolation=cv2.INTER_LINEAR)
    return noise[: shape[0], : shape[1]]


def _sample(texture: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Read a texture at real-valued positions, repeating it in both directions."""
    return cv2.remap(
        texture,
        col.astype(np.float32, copy=False),
        row.astype(np.float32, copy=False),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def _brushed(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, sharp: float, scene: Scene
) -> np.ndarray:
    """Straight brushing: fine and broad streaks of limited length along the brushing direction."""
    cos, sin = (
        math.cos(math.radians(scene.brushing_deg)),
        math.sin(math.radians(scene.brushing_deg)),
    )
    along, across = cos * x + sin * y, -sin * x + cos * y
    fine = rng.standard_normal((512, 256), dtype=np.float32)
    fine = cv2.blur(cv2.blur(fine, (41, 1), borderType=cv2.BORDER_REFLECT), (15, 1))
    broad = cv2.GaussianBlur(
        rng.standard_normal((512, 256), dtype=np.float32), (0, 0), sigmaX=30.0, sigmaY=3.0
    )
    texture = fine / fine.std() + 0.6 * broad / broad.std()
    return _sample(texture, across * 2.0 + 256, along * 1.0 + 128)


def _turned(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> np.ndarray:
    """Turning marks: concentric grooves of one feed, uneven along the circle."""
    rings = rng.standard_normal((256, 512), dtype=np.float32)
    rings = cv2.blur(rings, (121, 1), borderType=cv2.BORDER_REFLECT)
    rings /= rings.std()
    feed = np.sin(np.arange(256, dtype=np.float32) * (2 * math.pi / 7.0) + rng.uniform(0, 6.28))
    texture = 0.85 * rings + 0.5 * feed[:, None]
    # Mirrored in the angle, so that the texture closes around the circle without a seam.
    angle = np.abs(cv2.phase(x, y) - np.float32(math.pi)) * np.float32(511 / math.pi)
    return _sample(texture, radius * 3.0, angle)


def _artwork(rng: np.random.Generator) -> np.ndarray:
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


def _engraving(artwork: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
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


def _window(scene: Scene, x: float, y: float, half: float) -> tuple[slice, slice]:
    """Row and column range of the grid that holds all pixels within `half` units of a point."""
    col, row = grid_position(scene, np.float64(x), np.float64(y))
    reach = half * scene.unit_px * SUPERSAMPLE
    return (
        slice(max(0, math.floor(row - reach)), max(0, math.ceil(row + reach))),
        slice(max(0, math.floor(col - reach)), max(0, math.ceil(col + reach))),
    )


_Layers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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


def _weave_tile() -> np.ndarray:
    """One repeat of a plain weave, two yarns by two: the height of the yarn on top, (96, 96)."""
    phase = ((np.arange(96) + 0.5) * (math.pi / 48.0)).astype(np.float32)
    warp, weft = np.sin(phase)[None, :], np.sin(phase)[:, None]
    is_warp_on_top = warp * weft > 0
    return np.where(is_warp_on_top, np.abs(warp), np.abs(weft)).astype(np.float32)


def _belt(
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
    grain = _smooth_noise(rng, x.shape, 0.6 * sharp)
    wear = _smooth_noise(rng, x.shape, 22.0 * sharp)
    relief = 0.55 * weave + 0.10 * grain
    tone = 0.62 + 0.42 * weave + 0.08 * grain + 0.05 * wear
    return (np.maximum(tone, 0.1)[..., None] * _BELT).astype(np.float32), relief.astype(np.float32)
