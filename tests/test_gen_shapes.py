"""Sides and seams of patches and scars, feathered swaps, and the configs of all policies."""

import numpy as np
import pytest

from generator.anchors import anchor_rng
from generator.policies import CONFIGS, POLICIES
from generator.policies.base import ImageContext
from generator.policies.cutpaste import CutPasteConfig
from generator.policies.cutpaste_scar import CutPasteScarConfig
from generator.policies.perlin import PerlinConfig
from generator.policies.random_scar import RandomScarConfig
from generator.policies.random_swap import RandomSwapConfig
from generator.policies.saliency_perlin import SaliencyPerlinConfig
from generator.policies.scar import ScarConfig
from generator.policies.shapes import patch_size, scar_angles, scar_size, seam_width
from generator.policies.swap import SwapConfig
from manifests.edits import Copy, render
from manifests.errors import ConfigError
from manifests.schema import FALLBACKS

PATCH = {"area_frac": (0.02, 0.15), "aspect": (0.3, 3.3)}
SCAR = {"width_px": (2.0, 16.0), "length_px": (10.0, 25.0)}


def context_of(height=96, width=144, top=40):
    """Noise of another range per channel, and a top cluster of `top` rows and columns."""
    noise = np.random.default_rng(3).integers(0, 80, size=(height, width, 3))
    image = (noise + np.array([0, 80, 160])).astype(np.uint8)
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[30 : 30 + top, 40 : 40 + top] = 1
    return ImageContext(image, "0" * 64, (0, 0, height, width), 2, labels, 2)


# Sizes


def test_patch_sizes_follow_their_ranges():
    rng = np.random.default_rng(2)
    box = (3, 4, 400, 600)
    sizes = np.array([patch_size(rng, box, **PATCH) for _ in range(4000)])
    area, aspect = sizes.prod(axis=1) / (400 * 600), sizes[:, 0] / sizes[:, 1]
    assert 0.0195 < area.min() < 0.022 and 0.148 < area.max() < 0.1515
    assert abs(area.mean() - 0.085) < 0.003
    assert 0.29 < aspect.min() < 0.31 and 3.2 < aspect.max() < 3.4
    assert abs((aspect < 1).mean() - 0.5) < 0.03  # flat and tall equally often
    assert abs(aspect[aspect > 1.02].mean() - 2.15) < 0.06
    tall = {"area_frac": (0.04, 0.04), "aspect": (4.0, 4.0)}
    assert patch_size(rng, (0, 0, 100, 100), **tall) == (40, 10)


def test_scar_sizes_follow_their_ranges():
    rng = np.random.default_rng(2)
    sizes = np.array([scar_size(rng, 256, 320, **SCAR) for _ in range(3000)])
    length, width = sizes.max(axis=1), sizes.min(axis=1)
    assert (length >= 2 * width).all()
    assert (length.min(), length.max()) == (10, 25)
    assert (width.min(), width.max()) == (2, 12)  # half of 25
    assert abs((sizes[:, 0] > sizes[:, 1]).mean() - 0.5) < 0.03  # upright and lying
    large = np.array([scar_size(rng, 700, 512, **SCAR) for _ in range(1000)])
    assert (large.max(), large.max(axis=1).min(), large.min()) == (50, 20, 4)
    only = {"width_px": (6.0, 6.0), "length_px": (3.0, 12.0)}
    assert {tuple(sorted(scar_size(rng, 256, 256, **only))) for _ in range(20)} == {(6, 12)}


def test_scar_angles_reach_both_ends():
    rng = np.random.default_rng(2)
    assert set(scar_angles(rng, 200, angle_deg=0.01)) == {-1, 0, 1}
    assert scar_angles(rng, 2, angle_deg=0.0) == [0, 0]


@pytest.mark.parametrize(
    ("feather_px", "canvas", "box", "expected"),
    [
        (0.0, (256, 256), (60, 90), 0),
        (4.0, (256, 320), (60, 90), 4),
        (4.0, (700, 512), (60, 90), 8),  # the shorter side is twice 256
        (3.0, (128, 256), (60, 90), 2),  # 1.5 rounds to the even neighbour
        (64.0, (256, 256), (60, 90), 29),  # one of rows 29 and 30 is 30 px from the edge
        (64.0, (256, 256), (90, 61), 30),
        (4.0, (256, 256), (2, 10), 0),  # every pixel is an edge
        (4.0, (256, 256), (3, 10), 1),
        (64.0, (2048, 2048), (900, 900), 127),  # the most that an edit holds
    ],
)
def test_seam_widths_by_hand(feather_px, canvas, box, expected):
    h, w = box
    seam = seam_width(feather_px, *canvas, box_height=h, box_width=w)
    assert seam == expected and type(seam) is int
    # The middle is whole: its distance from the edge is at least the seam's width.
    Copy((0, 0, h, w), (0, 0, h, w), feather_px=seam)
    assert (min(h, w) - 1) // 2 + 1 >= seam + 1


# Seams


def test_a_feathered_swap_is_mixed_at_the_border_and_whole_in_the_middle():
    context = context_of(256, 320, top=200)
    normal = context.image.astype(int)
    for name in ("swap", "random-swap"):
        policy = POLICIES[name](CONFIGS[name](feather_px=5.0))
        for repeat in range(6):
            draw = policy.draw(anchor_rng(0, context.digest, name, 0, repeat), context)
            image, mask = render(context.image, draw.edits)
            for edit in draw.edits:
                (sy, sx, h, w), (dy, dx, _, _) = edit.src, edit.dst
                assert edit.feather_px == 5
                middle = np.s_[dy + 5 : dy + h - 5, dx + 5 : dx + w - 5]
                source = np.s_[sy + 5 : sy + h - 5, sx + 5 : sx + w - 5]
                assert (image[middle] == context.image[source]).all()
                weight = 255 // (5 + 1)
                for i, j in ((0, 0), (0, w // 2), (h - 1, 3), (h // 2, w - 1)):
                    mixed = (
                        weight * normal[sy + i, sx + j] + (255 - weight) * normal[dy + i, dx + j]
                    )
                    assert (image[dy + i, dx + j] == (mixed + 127) // 255).all()
            assert mask.sum() == 2 * h * w


@pytest.mark.parametrize("name", [name for name in POLICIES if "perlin" not in name])
def test_a_feather_changes_how_a_draw_looks_and_not_where_it_lies(name):
    context = context_of(256, 320, top=120)
    for repeat in range(8):
        hard, soft = (
            POLICIES[name](CONFIGS[name](feather_px=feather)).draw(
                anchor_rng(0, context.digest, name, 0, repeat), context
            )
            for feather in (0.0, 64.0)
        )
        assert {edit.feather_px for edit in hard.edits} == {0}
        assert (soft.anchors == hard.anchors).all() and soft.rejections == hard.rejections == 0
        assert [edit.feather_px for edit in soft.edits] == [
            min(64, (min(edit.dst[2:]) - 1) // 2) for edit in soft.edits
        ]
        assert (soft.rendered[1] == hard.rendered[1]).all()
        change = [
            np.abs(draw.rendered[0].astype(int) - context.image).sum() for draw in (hard, soft)
        ]
        if soft.edits[0].feather_px:
            assert change[1] < change[0]


def test_the_seam_is_that_of_the_size_that_fitted():
    context = context_of(256, 320, top=20)
    policy = POLICIES["swap"](SwapConfig(feather_px=64.0))
    shrunk = 0
    for repeat in range(20):
        draw = policy.draw(anchor_rng(0, context.digest, "swap", 0, repeat), context)
        h, w = draw.anchors[0, 2:].tolist()
        assert {edit.feather_px for edit in draw.edits} == {(min(h, w) - 1) // 2}
        shrunk += draw.fallback == FALLBACKS.index("shrunk")
    assert shrunk > 5


# Configs

PATCH_CONFIGS = (SwapConfig, RandomSwapConfig, CutPasteConfig)
SCAR_CONFIGS = (ScarConfig, RandomScarConfig, CutPasteScarConfig)
PERLIN_CONFIGS = (PerlinConfig, SaliencyPerlinConfig)
REFUSED = [
    *((config, "area_frac", (0.0, 0.1)) for config in PATCH_CONFIGS),
    *((config, "aspect", (0.0, 2.0)) for config in PATCH_CONFIGS),
    (SwapConfig, "area_frac", (0.2, 0.1)),
    (SwapConfig, "area_frac", (0.2, 1.1)),
    (SwapConfig, "aspect", (1.0, 2.0, 3.0)),
    (SwapConfig, "smallest_area_frac", 0.0),
    (RandomSwapConfig, "smallest_area_frac", 1.5),
    *((config, "cluster", "top") for config in (SwapConfig, ScarConfig)),
    *((config, "noop_tolerance", -1.0) for config in CONFIGS.values()),
    *((config, "noop_tolerance", float("nan")) for config in CONFIGS.values()),
    *((config, "feather_px", -0.5) for config in (*PATCH_CONFIGS, *SCAR_CONFIGS)),
    *((config, "feather_px", 64.5) for config in (*PATCH_CONFIGS, *SCAR_CONFIGS)),
    *((config, "feather_px", float("nan")) for config in (*PATCH_CONFIGS, *SCAR_CONFIGS)),
    *((config, "width_px", (0.5, 3.0)) for config in SCAR_CONFIGS),
    *((config, "width_px", (13.0, 16.0)) for config in SCAR_CONFIGS),
    *((config, "length_px", (25.0, 10.0)) for config in SCAR_CONFIGS),
    *((config, "angle_deg", 91.0) for config in SCAR_CONFIGS),
    *((config, "colour_jitter", -0.1) for config in (CutPasteConfig, CutPasteScarConfig)),
    *((config, "colour_jitter", 0.41) for config in (CutPasteConfig, CutPasteScarConfig)),
    *((config, "perlin_cells", (-1, 3)) for config in PERLIN_CONFIGS),
    *((config, "perlin_cells", (0, 9)) for config in PERLIN_CONFIGS),
    *((config, "perlin_cells", (3, 2)) for config in PERLIN_CONFIGS),
    *((config, "perlin_cells", (1.0, 2.0)) for config in PERLIN_CONFIGS),
    *((config, "alpha", (0.0, 1.0)) for config in PERLIN_CONFIGS),
    *((config, "alpha", (0.5, 1.01)) for config in PERLIN_CONFIGS),
    *((config, "alpha", (0.5, 0.4)) for config in PERLIN_CONFIGS),
    *((config, "alpha", (0.5, float("nan"))) for config in PERLIN_CONFIGS),
    (SaliencyPerlinConfig, "saliency", "none"),
]


@pytest.mark.parametrize(("config", "field", "value"), REFUSED)
def test_configs_refuse_what_cannot_work(config, field, value):
    with pytest.raises(ConfigError):
        config(**{field: value})
