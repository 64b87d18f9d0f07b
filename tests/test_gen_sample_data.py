"""Tests of the sample data: layout, masks, reproducibility, and that nothing is half-written."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from generator import (
    sample_damage,
    sample_data,
    sample_defects,
    sample_part,
    sample_scene,
    sample_shading,
)
from generator.sample_data import (
    DEFECTS,
    LICENSE_NAME,
    MASK_TOLERANCE,
    render_sample,
    render_sample_data,
)
from manifests.errors import ConfigError, OutputError
from manifests.images import read_image, read_mask

HEIGHT, WIDTH = 108, 132  # not square, and not of the design's aspect either
SMALL = {"train": 2, "test_good": 1, "per_defect": 1, "height": HEIGHT, "width": WIDTH}


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _scene(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> sample_scene.Scene:
    return sample_scene.draw_scene(np.random.default_rng(seed), height, width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_sample_data(tmp_path_factory.mktemp("sample") / "data", seed=3, **SMALL)


def test_layout_is_that_of_mvtec(folder: Path) -> None:
    expected = {LICENSE_NAME, "bracket/train/good/000.png", "bracket/train/good/001.png"}
    expected.add("bracket/test/good/000.png")
    for defect in ("contamination", "dent", "missing_piece", "scratch"):
        expected |= {
            f"bracket/test/{defect}/000.png",
            f"bracket/ground_truth/{defect}/000_mask.png",
        }
    assert set(_files(folder)) == expected


def test_images_are_colour_and_masks_binary(folder: Path) -> None:
    image = read_image(folder / "bracket/train/good/000.png")
    assert image.shape == (HEIGHT, WIDTH, 3)
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    assert (red != green).any() and (green != blue).any()
    assert image.std() > 25  # a bright part on a dark belt
    for path in sorted(folder.glob("bracket/ground_truth/*/*.png")):
        values = np.unique(read_image(path))
        assert values.tolist() == [0, 255], path


def test_open_data_finds_it(folder: Path) -> None:
    datasets = pytest.importorskip("manifests.datasets")
    (category,) = datasets.open_data(folder)
    assert (category.name, category.format) == ("bracket", "mvtec")
    assert len(category.train) == 2
    assert sorted(s.defect for s in category.test) == sorted(["good", *DEFECTS])
    assert all((s.mask is not None) == (s.label == 1) for s in category.test)


def test_same_seed_same_bytes_and_other_seed_other_bytes(folder: Path, tmp_path: Path) -> None:
    again = _files(render_sample_data(tmp_path / "again", seed=3, **SMALL))
    assert again == _files(folder)
    other = _files(render_sample_data(tmp_path / "other", seed=4, **SMALL))
    assert not {name for name in other if other[name] == again[name]}


def test_counts_do_not_change_the_other_images(folder: Path, tmp_path: Path) -> None:
    more = dict(SMALL, train=3, test_good=2, per_defect=2)
    larger = _files(render_sample_data(tmp_path / "more", seed=3, **more))
    for name, digest in _files(folder).items():
        assert larger[name] == digest, name


def test_no_two_images_are_the_same(folder: Path) -> None:
    images = [path for path in folder.rglob("*.png") if "ground_truth" not in path.parts]
    assert len({path.read_bytes() for path in images}) == len(images) == 7


@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_is_exactly_what_the_defect_changed(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = []
    monkeypatch.setattr(
        sample_data,
        "shade",
        lambda surface, scene: (
            pictures.append(sample_shading.shade(surface, scene)) or pictures[-1]
        ),
    )
    image, mask = render_sample(
        seed=1, split="test", defect=defect, index=0, height=HEIGHT, width=WIDTH
    )
    clean, defective = pictures[0], pictures[-1]
    assert clean.dtype == np.float32 and clean.shape == (HEIGHT, WIDTH, 3)
    literal = np.zeros((HEIGHT, WIDTH), bool)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            literal[y, x] = any(
                abs(float(clean[y, x, c]) - float(defective[y, x, c])) > MASK_TOLERANCE
                for c in range(3)
            )
    assert np.array_equal(mask, literal)
    assert 4 <= mask.sum() < 0.05 * mask.size
    # The picture shows the defect: inside the mask it follows the defective rendering.
    inside = mask & (np.abs(defective - clean).max(axis=-1) > 12)
    seen = np.abs(image - defective)[inside].mean()
    assert seen < np.abs(image - clean)[inside].mean()


def test_good_images_have_an_empty_mask() -> None:
    _, mask = render_sample(
        seed=1, split="test", defect="good", index=0, height=HEIGHT, width=WIDTH
    )
    assert mask.dtype == bool and mask.shape == (HEIGHT, WIDTH) and not mask.any()


def test_severities_cover_the_range_evenly() -> None:
    pairs = [sample_data._severity_and_kind(0, d, i) for d in DEFECTS for i in range(8)]
    for drawn in (sorted(p[0] for p in pairs), sorted(p[1] for p in pairs)):
        assert drawn[0] >= 0 and drawn[-1] < 1
        assert max(np.diff([0.0, *drawn, 1.0])) < 0.15
    for defect in DEFECTS:  # each defect alone as well
        drawn = sorted(sample_data._severity_and_kind(5, defect, i)[0] for i in range(8))
        assert max(np.diff([*drawn, drawn[0] + 1])) < 0.25


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_visible_defect_is_found_even_at_severity_zero(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A scratch of the least depth was once redrawn a hundred times in vain.
    monkeypatch.setattr(sample_data, "_severity_and_kind", lambda *_: (0.0, 0.5))
    for seed in range(3):
        _, mask = render_sample(
            seed=seed, split="test", defect=defect, index=0, height=96, width=96
        )
        assert mask.any()


@pytest.mark.parametrize("name", DEFECTS)
def test_applying_a_defect_leaves_the_surface_untouched(name: str) -> None:
    scene = _scene()
    surface = sample_part.build_surface(scene)
    fields = list(vars(surface))
    before = {field: getattr(surface, field).copy() for field in fields}
    for seed in range(6):  # contamination and missing piece come in several kinds
        defect = sample_defects.DRAW[name](np.random.default_rng(seed), 0.8, (seed + 0.5) / 6)
        changed = sample_damage.apply_defect(defect, scene, surface)
        assert any(not np.array_equal(getattr(changed, f), before[f]) for f in fields)
        assert all(getattr(changed, f).dtype == np.float32 for f in fields)
        assert all(np.isfinite(getattr(changed, f)).all() for f in fields)
    for field in fields:
        assert np.array_equal(getattr(surface, field), before[field]), field


def test_contamination_and_missing_piece_come_in_all_kinds() -> None:
    rng = np.random.default_rng(0)
    kinds = {type(sample_defects.draw_contamination(rng, 0.5, k / 8)) for k in range(8)}
    assert kinds == {sample_defects.Smear, sample_defects.Fibre, sample_defects.Particles}
    pieces = [sample_defects.draw_missing_piece(rng, 0.5, k / 40) for k in range(40)]
    assert all((piece.chip is None) != (piece.screw is None) for piece in pieces)
    assert {piece.chip.is_through for piece in pieces if piece.chip} == {True, False}
    assert {piece.screw for piece in pieces if piece.chip is None} <= {0, 1, 2, 3}


def test_missing_screw_changes_only_its_corner() -> None:
    scene = _scene(5)
    whole = sample_part.build_surface(scene)
    bare = sample_part.build_surface(scene, missing_screw=2)
    changed = (whole.height != bare.height) | (whole.albedo != bare.albedo).any(axis=-1)
    cx, cy = sample_part.SCREWS[2]
    assert changed.any()
    assert np.hypot(whole.x[changed] - cx, whole.y[changed] - cy).max() < 14
    assert np.array_equal(whole.belt_albedo, bare.belt_albedo)


def test_chip_through_the_outline_shows_the_belt_and_one_on_the_boss_does_not() -> None:
    scene = _scene(6)
    whole = sample_part.build_surface(scene)
    for is_through in (True, False):
        chip = sample_part.Chip(y=-77.0, x=0.0, radius=6.0, phase=1.0, is_through=is_through)
        chipped = sample_part.build_surface(scene, chips=[chip])
        assert (chipped.cover < whole.cover - 0.5).any() == is_through
        assert (chipped.cover <= whole.cover).all()
        assert (whole.height - chipped.height).max() > 2


def test_plate_distance_by_hand() -> None:
    # Far right, the rounded rectangle alone decides: x = 110 lies 4 beyond its side at 106. At the
    # corner, the arc of radius 17 around (89, 40): (89 + 30, 40 + 40) is 50 - 17 = 33 outside it.
    x, y = np.array([110.0, 119.0, 0.0]), np.array([0.0, 80.0, 0.0])
    distance = sample_part.plate_distance(x, y)
    assert distance[0] == pytest.approx(4.0)
    assert distance[1] == pytest.approx(33.0)
    assert distance[2] < -57.0


def test_grid_position_inverts_the_part_coordinates() -> None:
    scene = _scene(7)
    surface = sample_part.build_surface(scene)
    for row, col in ((0, 0), (10, 200), (215, 263)):
        at = sample_scene.grid_position(scene, surface.x[row, col], surface.y[row, col])
        assert at == pytest.approx((col, row), abs=1e-2)


def test_shade_is_pure_and_in_range() -> None:
    scene = _scene(8)
    surface = sample_part.build_surface(scene)
    first, second = sample_shading.shade(surface, scene), sample_shading.shade(surface, scene)
    assert np.array_equal(first, second)
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 255


def test_shadow_falls_away_from_the_light() -> None:
    scene = _scene(9)
    picture = sample_shading.shade(sample_part.build_surface(scene), scene).mean(axis=-1)
    turn = math.radians(scene.light_azimuth_deg)
    assert math.cos(turn) < 0 and math.sin(turn) < 0  # the lamp stands at the upper left
    # Just beyond the lower and the upper edge of the disc, three design units from the part.
    reach = sample_part.DISC_RADIUS + 3.0
    levels = []
    for side in (1, -1):
        col, row = sample_scene.grid_position(scene, np.float64(0), np.float64(side * reach))
        y, x = round(float(row) / 2), round(float(col) / 2)
        levels.append(picture[y, x - 4 : x + 5].mean())
    assert levels[0] < 0.8 * levels[1]


def test_noise_has_the_stated_deviation() -> None:
    flat = np.full((64, 80, 3), 100.0, np.float32)
    out = sample_shading.expose(flat, np.random.default_rng(0)).astype(float)
    read, shot = sample_shading._READ_NOISE, sample_shading._SHOT_NOISE
    expected = math.sqrt(read**2 + shot * 100.0 + 1 / 12)  # rounding adds 1/12
    assert out.mean() == pytest.approx(100.0, abs=0.1)
    assert out.std() == pytest.approx(expected, rel=0.05)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render_sample_data(
        tmp_path / "data",
        train=2,
        test_good=1,
        per_defect=0,
        height=96,
        width=100,
        category="hub-2",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "data/hub-2/train/good/001.png").is_file()


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite") as caught:
        render_sample_data(tmp_path, **SMALL)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert _files(tmp_path).keys() == {"notes.md"}


def test_refuses_a_file_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="not a folder"):
        render_sample_data(tmp_path / "file", overwrite=True, **SMALL)
    assert (tmp_path / "file").read_text() == "mine"


def test_accepts_an_empty_folder(tmp_path: Path) -> None:
    render_sample_data(tmp_path, train=2, test_good=0, per_defect=0, height=96, width=100)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"bracket", LICENSE_NAME}
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_overwrite_replaces_the_category_and_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    stale = tmp_path / "bracket/train/good/999.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"stale")
    render_sample_data(
        tmp_path, train=2, test_good=0, per_defect=0, height=96, width=100, overwrite=True
    )
    assert not stale.exists()
    assert set(_files(tmp_path)) == {
        "notes.md",
        LICENSE_NAME,
        "bracket/train/good/000.png",
        "bracket/train/good/001.png",
    }
    assert {p.name for p in tmp_path.iterdir()} == {"notes.md", LICENSE_NAME, "bracket"}


@pytest.mark.parametrize("fails", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_call_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: type[BaseException] | OSError
) -> None:
    written: list[Path] = []

    def write_two(path: Path, image: np.ndarray) -> None:
        if len(written) == 2:
            raise fails
        written.append(path)

    monkeypatch.setattr(sample_data, "write_png", write_two)
    expected = OutputError if isinstance(fails, OSError) else fails
    with pytest.raises(expected) as caught:
        render_sample_data(tmp_path / "data", **SMALL)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []
    if isinstance(fails, OSError):
        assert "No space left" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("train", 1),
        ("test_good", -1),
        ("per_defect", -1),
        ("height", 95),
        ("width", 100_000),
        ("category", "../up"),
        ("category", "Upper"),
    ],
)
def test_refuses_what_cannot_work(tmp_path: Path, field: str, value: object) -> None:
    arguments = dict(SMALL, **{field: value})
    with pytest.raises(ConfigError) as caught:
        render_sample_data(tmp_path / "data", **arguments)  # type: ignore[arg-type]
    assert repr(value).strip("'") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_defects_are_small() -> None:
    small = 0
    for defect in DEFECTS:
        areas = [
            render_sample(seed=0, split="test", defect=defect, index=i, height=288, width=320)[
                1
            ].mean()
            for i in range(8)
        ]
        small += max(areas) < 0.005
    assert small >= 2


def test_masks_can_be_read_as_masks(folder: Path) -> None:
    path = folder / "bracket/ground_truth/dent/000_mask.png"
    mask = read_mask(path, binarise_at=1)
    _, expected = render_sample(
        seed=3, split="test", defect="dent", index=0, height=HEIGHT, width=WIDTH
    )
    assert np.array_equal(mask, expected)
