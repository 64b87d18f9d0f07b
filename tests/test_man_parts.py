"""Which images of the magnetic tiles show one tile."""

from __future__ import annotations

import numpy as np

from manifests.datasets import open_data
from manifests.images import write_png


def test_exposures_in_a_row_are_one_tile(tmp_path):
    names = {
        "MT_Free": ["exp1_num_10", "exp2_num_31", "exp4_num_50", "exp2_num_70", "odd name"],
        # A jump of more than 200 and an exposure that does not rise begin another tile.
        "MT_Crack": ["exp3_num_5", "exp4_num_205", "exp5_num_406", "exp5_num_420", "exp6_num_440"],
    }
    for folder, stems in names.items():
        (tmp_path / folder / "Imgs").mkdir(parents=True)
        for stem in stems:
            image = np.full((20, 20, 3), 90, dtype=np.uint8)
            write_png(tmp_path / folder / "Imgs" / f"{stem}.png", image)
            (tmp_path / folder / "Imgs" / f"{stem}.png").rename(
                tmp_path / folder / "Imgs" / f"{stem}.jpg"
            )
            write_png(tmp_path / folder / "Imgs" / f"{stem}.png", image[..., 0])
    (category,) = open_data(tmp_path, format="mtd")
    parts = {sample.path.stem: sample.part for sample in category.samples}
    free, crack = "MT_Free/Imgs/exp1_num_10.jpg", "MT_Crack/Imgs/exp3_num_5.jpg"
    assert [parts[stem] for stem in names["MT_Free"]] == [
        free, free, free, "MT_Free/Imgs/exp2_num_70.jpg", "",
    ]  # fmt: skip
    assert [parts[stem] for stem in names["MT_Crack"]] == [
        crack,
        crack,
        "MT_Crack/Imgs/exp5_num_406.jpg",
        "MT_Crack/Imgs/exp5_num_420.jpg",
        "MT_Crack/Imgs/exp5_num_420.jpg",
    ]


def test_the_tiles_show_each_part_several_times(tiles, tiles_list):
    (category,) = open_data(tiles, train_list=tiles_list)
    defective = {sample.part for sample in category.test if sample.label}
    assert len(defective) < 100 < sum(sample.label for sample in category.test)
    assert all(sample.part for sample in category.samples)
