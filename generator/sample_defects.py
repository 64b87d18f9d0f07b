"""The defects of the sample data: scratch, dent, contamination and missing piece, as plain data.

`sample_damage` applies them to a surface. The sizes are those an inspector meets: hairlines, dents
that only disturb the shading, fibres and smears, chipped edges, a screw that was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from generator.sample_part import BORE_RADIUS, BOSS_RADIUS, SCREWS, Chip, plate_distance

_EDGE_TRIES = 200


@dataclass(frozen=True)
class Stroke:
    """A curved line on the part: (n, 2) points as (x, y) in design units, width and strength."""

    points: tuple[tuple[float, float], ...]
    width: float
    strength: float


@dataclass(frozen=True)
class Scratch:
    """One to three nearly parallel grooves; each stroke's strength is its depth in design units."""

    strokes: tuple[Stroke, ...]


@dataclass(frozen=True)
class Dent:
    """A shallow hollow with a raised rim; lengths in design units, the turn in radians."""

    x: float
    y: float
    half_axes: tuple[float, float]
    turn: float
    depth: float


@dataclass(frozen=True)
class Smear:
    """A thin oily film: a dent-like ellipse of `opacity` whose ragged texture has its own seed."""

    x: float
    y: float
    half_axes: tuple[float, float]
    turn: float
    opacity: float
    tint: tuple[float, float, float]
    texture_seed: int


@dataclass(frozen=True)
class Fibre:
    """A thread lying on the part; its stroke's strength is the opacity, `tint` its linear RGB."""

    stroke: Stroke
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Particles:
    """A few grains or chips of swarf: (x, y, radius) each in design units, and their linear RGB."""

    grains: tuple[tuple[float, float, float], ...]
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class MissingPiece:
    """A chip out of an edge or a missing screw (an index into `SCREWS`)."""

    chip: Chip | None
    screw: int | None


Defect = Scratch | Dent | Smear | Fibre | Particles | MissingPiece


def draw_scratch(rng: np.random.Generator, severity: float, kind: float) -> Scratch:
    """Draw a hairline scratch, sometimes with one or two fainter companions. Source: ours."""
    depth = _between(0.11, 0.38, severity)
    length = _between(18.0, 46.0, severity) * float(rng.uniform(0.8, 1.2))
    width = float(rng.uniform(0.55, 0.95))
    first = _draw_stroke(rng, length, bow=0.10, width=width, strength=depth)
    strokes = [first]
    companions = 0 if kind < 0.7 else 1 if kind < 0.9 else 2
    for number in range(1, 1 + companions):
        dx, dy = (float(v) for v in rng.normal(0.0, 1.0, 2))
        points = tuple((x + 2.2 * number + dx, y - 1.6 * number + dy) for x, y in first.points)
        strokes.append(replace(first, points=points, strength=depth * float(rng.uniform(0.4, 0.8))))
    return Scratch(tuple(strokes))


def draw_dent(rng: np.random.Generator, severity: float, kind: float) -> Dent:
    """Draw a shallow dent in the boss or the plate; it only disturbs the shading. Source: ours."""
    x, y = _draw_position(rng, margin=8.0, is_on_boss=kind < 0.4)
    long = _between(3.4, 6.6, severity)
    return Dent(
        x=x,
        y=y,
        half_axes=(long, long * float(rng.uniform(0.65, 1.0))),
        turn=float(rng.uniform(0, math.pi)),
        depth=long * _between(0.125, 0.235, severity) * float(rng.uniform(0.9, 1.1)),
    )


def draw_contamination(
    rng: np.random.Generator, severity: float, kind: float
) -> Smear | Fibre | Particles:
    """Draw a smear, a fibre or a few particles. Source: ours."""
    if kind < 0.4:
        x, y = _draw_position(rng, margin=10.0)
        long = _between(6.5, 13.0, severity)
        return Smear(
            x=x,
            y=y,
            half_axes=(long, long * float(rng.uniform(0.35, 0.6))),
            turn=float(rng.uniform(0, math.pi)),
            opacity=_between(0.30, 0.66, severity),
            tint=(0.20, 0.16, 0.10),
            texture_seed=int(rng.integers(2**63)),
        )
    if kind < 0.75:
        is_bright = bool(rng.random() < 0.3)
        stroke = _draw_stroke(
            rng,
            _between(16.0, 36.0, severity),
            bow=0.55,
            width=float(rng.uniform(0.7, 1.05)),
            strength=_between(0.65, 0.95, severity),
        )
        return Fibre(stroke, tint=(0.62, 0.62, 0.60) if is_bright else (0.06, 0.07, 0.12))
    x, y = _draw_position(rng, margin=8.0)
    count = int(rng.integers(3, 7))
    grains = tuple(
        (float(x + gx), float(y + gy), float(radius))
        for gx, gy, radius in zip(
            rng.normal(0, 4.0, count),
            rng.normal(0, 4.0, count),
            rng.uniform(0.6, 1.2, count) * _between(1.0, 1.5, severity),
            strict=True,
        )
    )
    return Particles(grains, tint=(0.10, 0.085, 0.07))


def draw_missing_piece(rng: np.random.Generator, severity: float, kind: float) -> MissingPiece:
    """Draw a chip on the outline, the boss or the bore, or (one time in four) a missing screw.

    Source: ours.
    """
    if kind < 0.25:
        return MissingPiece(chip=None, screw=int(rng.integers(len(SCREWS))))
    radius = _between(3.6, 7.0, severity)
    angle = float(rng.uniform(0, 2 * math.pi))
    is_on_boss = kind > 0.85
    if kind > 0.72 and not is_on_boss:
        reach = BORE_RADIUS - 0.2 * radius
    elif is_on_boss:
        reach = BOSS_RADIUS - 0.1 * radius
    else:  # walk outwards to the outline
        ways = np.linspace(40.0, 130.0, 901)
        is_inside = plate_distance(ways * math.cos(angle), ways * math.sin(angle)) < 0.1 * radius
        reach = float(ways[np.flatnonzero(is_inside)[-1]])
    chip = Chip(
        y=reach * math.sin(angle),
        x=reach * math.cos(angle),
        radius=radius,
        phase=float(rng.uniform(0, 2 * math.pi)),
        is_through=not is_on_boss,
    )
    return MissingPiece(chip=chip, screw=None)


# Each takes a generator, a severity from 0 (only just visible) to 1 (plain), and a number in [0, 1)
# that decides between the kinds of this defect.
DRAW: Final[dict[str, Callable[[np.random.Generator, float, float], Defect]]] = {
    "contamination": draw_contamination,
    "dent": draw_dent,
    "missing_piece": draw_missing_piece,
    "scratch": draw_scratch,
}


def _between(low: float, high: float, severity: float) -> float:
    return low + (high - low) * severity


def _draw_position(
    rng: np.random.Generator, *, margin: float, is_on_boss: bool | None = None
) -> tuple[float, float]:
    """A point (x, y) of the machined top, `margin` from outline, bore and screws.

    `is_on_boss`: on the turned boss, on the brushed plate, or (None) anywhere.
    """
    for _ in range(_EDGE_TRIES):
        x, y = float(rng.uniform(-100, 100)), float(rng.uniform(-72, 72))
        radius = math.hypot(x, y)
        is_on_top = float(plate_distance(np.asarray(x), np.asarray(y))) < -margin
        is_clear = all(math.hypot(x - cx, y - cy) > 12.5 + 0.5 * margin for cx, cy in SCREWS)
        is_there = is_on_boss is None or is_on_boss == (radius < BOSS_RADIUS - 4)
        if is_on_top and is_clear and is_there and radius > BORE_RADIUS + margin:
            return x, y
    raise AssertionError("the bracket has no such place")  # 200 misses: less than 1 in 10^9


def _draw_stroke(
    rng: np.random.Generator, length: float, *, bow: float, width: float, strength: float
) -> Stroke:
    """A cubic curve of about `length` whose inner control points stray by `bow` lengths."""
    x, y = _draw_position(rng, margin=6.0)
    angle = float(rng.uniform(0, math.pi))
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    strays = rng.normal(0.0, bow * length, 2)
    ends = np.array([x, y]) + np.outer([-0.5, -0.17, 0.17, 0.5], along * length)
    ends[1:3] += strays[:, None] * across
    t = np.linspace(0, 1, 25)[:, None]
    curve = (
        (1 - t) ** 3 * ends[0]
        + 3 * (1 - t) ** 2 * t * ends[1]
        + 3 * (1 - t) * t**2 * ends[2]
        + t**3 * ends[3]
    )
    return Stroke(tuple((float(px), float(py)) for px, py in curve), width, strength)
