"""The snippets of docs/api.md, one after the other; and one photo in memory against its file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import REPO, invoke_gen

import cutswap
from manifests.errors import ImageError

PAGE = (REPO / "docs" / "api.md").read_text(encoding="utf-8")
SNIPPETS = [snippet.split("```")[0] for snippet in PAGE.split("```python\n")[1:]]


def test_the_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    invoke_gen(
        "sample-data", tmp_path / "photos", "--train", 6, "--test-good", 2, "--per-defect", 1
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, snippet in enumerate(SNIPPETS):
        capsys.readouterr()
        exec(compile(snippet, f"docs/api.md, snippet {number}", "exec"), names)
        assert capsys.readouterr().out, snippet
    assert names["seen"].map.shape == names["frame"].shape[:2]


def test_every_public_name_is_there_and_most_are_explained():
    for name in cutswap.__all__:
        assert getattr(cutswap, name) is not None
    unused = {name for name in cutswap.__all__ if not re.search(rf"[`.]{name}\b", PAGE)}
    # What other pages explain: sharing, rearranging, textures, masks.
    assert unused <= {
        "MinArea", "Textures", "diff_sets", "export_images", "find_sets", "merge_sets", "pull_set",
        "push_set", "restore_mask", "subset_set",
    }  # fmt: skip


def test_a_photo_in_memory_is_judged_as_its_file(fitted, sample_data, category_name):
    folder = sample_data / category_name / "test"
    model = cutswap.load_model(fitted / category_name)
    rows, _ = cutswap.score_images(fitted / category_name, [folder], with_regions=True)
    for row in rows:
        image = cutswap.read_image(row.path)
        before = image.copy()
        seen = cutswap.inspect_image(model, image)
        np.testing.assert_array_equal(image, before)
        assert seen.score == pytest.approx(row.score, rel=1e-5)
        assert (seen.is_defect, seen.p_value) == (row.is_defect, row.p_value)
        assert seen.map.shape == image.shape[:2]
        assert seen.regions.count == row.regions.count
        assert [one.box for one in seen.regions.described] == [
            one.box for one in row.regions.described
        ]
    everything = cutswap.MinArea.parse("100%")
    assert not cutswap.inspect_image(model, image, min_area=everything).is_defect


def test_grey_photos_and_what_is_no_photo(fitted, category_name):
    model = cutswap.load_model(fitted / category_name)
    grey = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    one = cutswap.inspect_image(model, grey)
    other = cutswap.inspect_image(model, np.repeat(grey[..., None], 3, axis=2))
    assert one.score == other.score
    for wrong in (grey.astype(np.float32), grey[None, None], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ImageError, match="not an image that can be inspected"):
            cutswap.inspect_image(model, wrong)
    with pytest.raises(ImageError, match="not an image"):
        cutswap.inspect_image(model, np.zeros((0, 4, 3), np.uint8))
