"""Light and camera of the sample data: from a surface to the picture a sensor would see.

`shade` is free of noise, so two surfaces of the same scene can be compared pixel by pixel;
`expose` adds the sensor's noise and quantises.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from generator.sample_part import Surface
from generator.sample_scene import SUPERSAMPLE, Scene

_LAMP_DISTANCE = 620.0  # design units; near enough for a visible fall-off over the part
_READ_NOISE = 1.1  # grey levels
_SHOT_NOISE = 0.018  # variance in grey levels per grey level


def shade(surface: Surface, scene: Scene) -> np.ndarray:
    """Render a surface without noise: (H, W, 3) float32 in [0, 255], display-referred RGB.

    A lamp at a finite distance, a soft overcast from above, glints along the machining grooves,
    cast shadows and ambient occlusion from the height field, lens blur, vignetting, a tone curve.

    Source: ours; the glint along grooves is the tangent-based highlight of Kajiya and Kay (1989).
    Differs: the tangent is bent with the surface's normal, so that a dent disturbs the glint.
    """
    spacing = 1.0 / (SUPERSAMPLE * scene.unit_px)
    lamp = _lamp_directions(scene, surface.x.shape)
    shadow, occlusion = _shadow_and_occlusion(surface, scene, spacing)
    metal = _shade_metal(surface, lamp, scene, spacing, shadow, occlusion)
    belt = _shade_belt(surface, lamp, scene, spacing, shadow, occlusion)
    cover = surface.cover[..., None]
    radiance = belt + cover * (metal - belt)
    radiance = cv2.GaussianBlur(radiance, (0, 0), scene.blur_units / spacing)
    radiance = cv2.resize(radiance, (scene.width, scene.height), interpolation=cv2.INTER_AREA)
    radiance *= _falloff(scene)[..., None]
    radiance *= np.asarray(scene.white_balance, np.float32) * np.float32(scene.light_gain)
    return _tone(radiance)


def expose(picture: np.ndarray, rng: np.random.Generator, *, gain: float = 1.0) -> np.ndarray:
    """Add read and shot noise of the sensor and quantise to (H, W, 3) uint8.

    `gain` scales the standard deviation. The noise has a part common to the three channels (the
    demosaicing spreads it) and one of each channel.
    """
    height, width, _ = picture.shape
    grain = 0.8 * rng.standard_normal((height, width, 1), dtype=np.float32)
    grain = grain + 0.6 * rng.standard_normal((height, width, 3), dtype=np.float32)
    deviation = np.sqrt(_READ_NOISE**2 + _SHOT_NOISE * picture) * np.float32(gain)
    noisy: np.ndarray = np.rint(picture + deviation * grain)
    return noisy.clip(0, 255).astype(np.uint8)


def _lamp_directions(
    scene: Scene, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (x, y, z) from every supersampled pixel to the lamp."""
    azimuth = math.radians(scene.light_azimuth_deg)
    elevation = math.radians(scene.light_elevation_deg)
    spacing = np.float32(1.0 / (SUPERSAMPLE * scene.unit_px))
    rows = (np.arange(shape[0], dtype=np.float32) + 0.5 - shape[0] / 2)[:, None] * spacing
    cols = (np.arange(shape[1], dtype=np.float32) + 0.5 - shape[1] / 2)[None, :] * spacing
    lx = np.float32(_LAMP_DISTANCE * math.cos(elevation) * math.cos(azimuth)) - cols
    ly = np.float32(_LAMP_DISTANCE * math.cos(elevation) * math.sin(azimuth)) - rows
    lz = np.float32(_LAMP_DISTANCE * math.sin(elevation))
    length = np.sqrt(lx * lx + ly * ly + lz * lz)
    return lx / length, ly / length, lz / length


def _normals(height: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normals (x, y, z) of a height field, both in design units."""
    scale = 1.0 / (8.0 * spacing)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale)
    nz = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    return -slope_x * nz, -slope_y * nz, nz


def _shade_metal(
    surface: Surface,
    lamp: tuple[np.ndarray, np.ndarray, np.ndarray],
    scene: Scene,
    spacing: float,
    shadow: np.ndarray,
    occlusion: np.ndarray,
) -> np.ndarray:
    """Radiance (Hs, Ws, 3) of the part."""
    lx, ly, lz = lamp
    nx, ny, nz = _normals(surface.height, spacing)
    # Halfway vector between the lamp and the camera, which looks straight down.
    half = 1.0 / np.sqrt(lx * lx + ly * ly + (lz + 1) * (lz + 1))
    hx, hy, hz = lx * half, ly * half, (lz + 1) * half
    facing = np.maximum(nx * lx + ny * ly + nz * lz, 0)
    mirror = np.maximum(nx * hx + ny * hy + nz * hz, 0)
    bend = nx * surface.tangent_x + ny * surface.tangent_y
    along = surface.tangent_x * hx + surface.tangent_y * hy - bend * mirror
    across = np.maximum(1.0 - along * along, 0)
    glint = (
        cv2.pow(across, 26)
        * np.clip(0.25 + 0.75 * cv2.pow(mirror, 3), 0, 1)
        * (1 + 0.12 * surface.streak)
    )
    shine = cv2.pow(mirror, 40)
    # The ceiling: brighter towards the back of the hall, dark low down at the sides.
    ceiling = np.float32(scene.ambient) * (0.60 * nz + 0.10 - 0.30 * ny) * occlusion
    lit = 1 - 0.80 * shadow
    matte = 0.26 * ceiling + 0.34 * facing * lit * (1 + 0.05 * surface.streak)
    polished = 0.80 * glint * surface.finish * lit * np.minimum(occlusion * 1.15, 1)
    bright = surface.gloss * (0.75 * shine * lit + 0.05 * np.maximum(ceiling, 0))
    out: np.ndarray = surface.albedo * (matte + polished)[..., None]
    out = out + bright[..., None]
    return out


def _shade_belt(
    surface: Surface,
    lamp: tuple[np.ndarray, np.ndarray, np.ndarray],
    scene: Scene,
    spacing: float,
    shadow: np.ndarray,
    occlusion: np.ndarray,
) -> np.ndarray:
    """Radiance (Hs, Ws, 3) of the belt under and around the part."""
    lx, ly, lz = lamp
    nx, ny, nz = _normals(surface.belt_height, spacing)
    facing = np.maximum(nx * lx + ny * ly + nz * lz, 0)
    light = 0.35 * np.float32(scene.ambient) * occlusion + 1.15 * facing * (1 - 0.88 * shadow)
    shaded: np.ndarray = surface.belt_albedo * light[..., None]
    return shaded


def _shadow_and_occlusion(
    surface: Surface, scene: Scene, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cast shadow (0 lit .. 1 dark) and ambient light that arrives (0..1), float32 (Hs, Ws).

    Both are soft, so they are computed on the output grid and enlarged.
    """
    shape = surface.height.shape
    coarse = (scene.width, scene.height)
    top = cv2.resize(surface.height * surface.cover, coarse, interpolation=cv2.INTER_AREA)
    azimuth = math.radians(scene.light_azimuth_deg)
    drop = math.tan(math.radians(scene.light_elevation_deg))  # units of height per unit of way
    shadow = np.zeros_like(top)
    step_px = 1.6 * scene.unit_px
    for step in range(1, 11):
        way = step * step_px
        move = np.array(
            [[1, 0, -way * math.cos(azimuth)], [0, 1, -way * math.sin(azimuth)]], np.float32
        )
        occluder = cv2.warpAffine(
            top, move, coarse, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        excess = occluder - step * 1.6 * drop - top
        shadow = np.maximum(shadow, np.clip(excess / 2.5, 0, 1))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 1.3 * scene.unit_px)
    hollow = cv2.GaussianBlur(top, (0, 0), 5.0 * scene.unit_px) - top
    occlusion = np.exp(-0.075 * np.maximum(hollow, 0))
    full = (shape[1], shape[0])
    return (
        cv2.resize(shadow, full, interpolation=cv2.INTER_LINEAR),
        cv2.resize(occlusion, full, interpolation=cv2.INTER_LINEAR),
    )


def _falloff(scene: Scene) -> np.ndarray:
    """Light gradient and vignetting over the picture, (H, W) float32 around 1."""
    v = np.linspace(-1, 1, scene.height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, scene.width, dtype=np.float32)[None, :]
    gradient = 1 + np.float32(scene.light_gradient[0]) * v + np.float32(scene.light_gradient[1]) * u
    return gradient * (1 - np.float32(scene.vignette) * 0.5 * (u * u + v * v))


def _tone(radiance: np.ndarray) -> np.ndarray:
    """A camera's tone curve: gamma 1.8 with a soft shoulder, (H, W, 3) float32 in [0, 255]."""
    value = np.maximum(radiance, 0) * np.float32(1.5)
    value = value / (1 + 0.28 * value)  # highlights roll off instead of clipping
    toned: np.ndarray = 255.0 * value ** np.float32(1 / 1.8)
    return toned.clip(0, 255).astype(np.float32)
