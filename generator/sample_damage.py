"""Defects applied to a surface of the sample data, never to pixels.

So a defect is lit, shadowed and blurred like everything else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from generator.sample_defects import (
    Defect,
    Dent,
    Fibre,
    MissingPiece,
    Particles,
    Scratch,
    Smear,
    Stroke,
)
from generator.sample_part import Surface, build_surface
from generator.sample_scene import SUPERSAMPLE, Scene, grid_position


def apply_defect(defect: Defect, scene: Scene, surface: Surface) -> Surface:
    """A new surface of the same scene with the defect on it; `surface` is left untouched.

    Source: ours.
    """
    match defect:
        case Scratch():
            return _apply_scratch(defect, scene, surface)
        case Dent():
            return _apply_dent(defect, surface)
        case Smear():
            return _apply_smear(defect, surface)
        case Fibre():
            return _apply_fibre(defect, scene, surface)
        case Particles():
            return _apply_particles(defect, surface)
        case MissingPiece(chip=chip, screw=screw):
            chips = () if chip is None else (chip,)
            return build_surface(scene, chips=chips, missing_screw=screw)


def _apply_scratch(defect: Scratch, scene: Scene, surface: Surface) -> Surface:
    height, finish, streak = surface.height, surface.finish, surface.streak
    gloss = surface.gloss
    for stroke in defect.strokes:
        profile = _stroke_profile(stroke, scene, height.shape)
        height = height - np.float32(stroke.strength) * profile
        # The groove has lost the finish of its surroundings, and its burnished flank glints.
        finish = finish * (1 - 0.35 * profile)
        streak = streak * (1 - profile)
        gloss = gloss + 0.25 * profile
    return replace(surface, height=height, finish=finish, streak=streak, gloss=gloss)


def _apply_dent(defect: Dent, surface: Surface) -> Surface:
    q = _ellipse(surface, defect.x, defect.y, defect.half_axes, defect.turn)
    # Negative second derivative of a Gaussian, flattened: a hollow with a slightly raised rim.
    hollow = np.exp(-0.9 * q) * (1 - 0.22 * q)
    return replace(surface, height=surface.height - np.float32(defect.depth) * hollow)


def _apply_smear(defect: Smear, surface: Surface) -> Surface:
    rng = np.random.Generator(np.random.PCG64(defect.texture_seed))
    q = _ellipse(surface, defect.x, defect.y, defect.half_axes, defect.turn)
    small: np.ndarray = rng.standard_normal((48, 48), dtype=np.float32)
    small = cv2.GaussianBlur(small, (0, 0), sigmaX=3.0, sigmaY=1.0)
    small = small / small.std()
    # Streaks along the wiping direction, read in the ellipse's own axes.
    dx, dy = surface.x - np.float32(defect.x), surface.y - np.float32(defect.y)
    along = (math.cos(defect.turn) * dx + math.sin(defect.turn) * dy) / defect.half_axes[0]
    across = (-math.sin(defect.turn) * dx + math.cos(defect.turn) * dy) / defect.half_axes[1]
    ragged = cv2.remap(
        small,
        (along * 12 + 24).astype(np.float32),
        (across * 12 + 24).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    film = np.clip(1.25 - q + 0.45 * ragged, 0, 1)
    film = film * np.exp(-0.5 * np.maximum(q - 1, 0)) * np.float32(defect.opacity)
    film = np.where(q < 4, film, 0).astype(np.float32)
    tint = np.asarray(defect.tint, np.float32)
    return replace(
        surface,
        albedo=surface.albedo + film[..., None] * (tint - surface.albedo),
        finish=surface.finish * (1 - 0.5 * film),
        gloss=surface.gloss + 0.2 * film,
    )


def _apply_fibre(defect: Fibre, scene: Scene, surface: Surface) -> Surface:
    profile = _stroke_profile(defect.stroke, scene, surface.height.shape)
    film = np.float32(defect.stroke.strength) * profile
    tint = np.asarray(defect.tint, np.float32)
    return replace(
        surface,
        height=surface.height + 0.5 * profile,
        albedo=surface.albedo + film[..., None] * (tint - surface.albedo),
        finish=surface.finish * (1 - film),
        gloss=surface.gloss * (1 - film),
    )


def _apply_particles(defect: Particles, surface: Surface) -> Surface:
    body = np.zeros_like(surface.height)
    for x, y, radius in defect.grains:
        distance = np.hypot(surface.x - np.float32(x), surface.y - np.float32(y))
        body = np.maximum(body, np.clip((radius - distance) / 0.7 + 0.5, 0, 1))
    tint = np.asarray(defect.tint, np.float32)
    return replace(
        surface,
        height=surface.height + 0.9 * body,
        albedo=surface.albedo + 0.85 * body[..., None] * (tint - surface.albedo),
        finish=surface.finish * (1 - 0.9 * body),
        gloss=surface.gloss * (1 - 0.5 * body),
    )


def _stroke_profile(stroke: Stroke, scene: Scene, shape: tuple[int, int]) -> np.ndarray:
    """Cross-section of a stroke over the grid: 1 on the line, tapered towards its ends, float32."""
    points = np.asarray(stroke.points)
    col, row = grid_position(scene, points[:, 0], points[:, 1])
    fixed = np.rint(np.stack([col, row], axis=-1) * 16).astype(np.int32)
    canvas = np.zeros(shape, np.uint8)
    segments = len(fixed) - 1
    for k in range(segments):
        taper = math.sin(math.pi * (k + 0.5) / segments) ** 0.6
        cv2.line(
            canvas,
            tuple(int(v) for v in fixed[k]),
            tuple(int(v) for v in fixed[k + 1]),
            round(255 * taper),
            1,
            cv2.LINE_AA,
            4,
        )
    sigma = max(0.45 * stroke.width * scene.unit_px * SUPERSAMPLE, 0.4)
    profile = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), sigma)
    # A line of one pixel, blurred, peaks at 1 / (sigma * sqrt(2 pi)) of its brightness.
    bright: np.ndarray = profile * (sigma * math.sqrt(2 * math.pi) / 255.0)
    return bright.clip(max=1.0)


def _ellipse(
    surface: Surface, x: float, y: float, half_axes: tuple[float, float], turn: float
) -> np.ndarray:
    """Squared elliptical radius of every pixel: 0 in the centre, 1 on the ellipse."""
    dx, dy = surface.x - np.float32(x), surface.y - np.float32(y)
    along = (math.cos(turn) * dx + math.sin(turn) * dy) / half_axes[0]
    across = (-math.sin(turn) * dx + math.cos(turn) * dy) / half_axes[1]
    return along * along + across * across
