"""Export: what replacing one may remove, and words of strangers in its names and its table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_gen_export import table, tree

import generator.export_images as export
import reference.small_sets as sets
from generator.export_images import export_images
from generator.merge import merge_sets
from generator.replay import replay_set
from generator.subset import subset_set
from manifests.errors import ConfigError, OutputError, SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import write_recipe
from manifests.schema import read_manifest
from reference.small_sets import write_set


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "tiles"
    write_set(folder)
    return folder


# What is replaced


@pytest.mark.parametrize("to", ["folder", "mvtec"])
def test_files_that_an_export_did_not_write_are_never_removed(small, tmp_path, to):
    folder = export_images(small, tmp_path, to=to).folder
    record = json.loads((folder / "export.json").read_text())
    assert sorted([*record["files"], "export.json"]) == sorted(tree(folder))
    assert record["layout"] == to and record["set_digest"] == read_manifest(small)[1]
    own = folder / "test" / "good" / "000.png"  # where a user of anomalib adds good test images
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(b"mine")
    before = tree(folder)
    with pytest.raises(OutputError, match=r"test/good/000.png: is not of the export.*; move it"):
        export_images(small, tmp_path, to=to, overwrite=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="nor are 1 other files"):
        export_images(small, tmp_path, to=to, overwrite=True)
    (folder / "notes.txt").unlink()
    assert tree(folder) == before
    own.unlink()
    (folder / "negatives.csv").unlink()  # ours, and gone already
    export_images(small, tmp_path, to=to, overwrite=True)
    assert tree(folder) == {name: one for name, one in before.items() if "good/" not in name} | {
        name: one for name, one in before.items() if name.startswith("train/good/")
    }


def test_a_link_in_an_export_is_the_users(small, tmp_path):
    folder = export_images(small, tmp_path).folder
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").write_bytes(b"mine")
    (folder / "more").symlink_to(tmp_path / "far")
    with pytest.raises(OutputError, match="tiles/more: is not of the export"):
        export_images(small, tmp_path, overwrite=True)
    assert (tmp_path / "far" / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "record",
    [None, b"", b"{}", b"[]", b'{"export_version": 2}', b'{"export_version":1,"files":[5]}'],
)
def test_a_folder_that_only_looks_like_an_export_is_none(small, tmp_path, record):
    folder = tmp_path / "tiles"
    folder.mkdir()
    (folder / "negatives.csv").write_text("mine")
    if record is not None:
        (folder / "export.json").write_bytes(record)
    before = tree(folder)
    with pytest.raises(OutputError, match=r"is no export|does not say what the export wrote"):
        export_images(small, tmp_path, overwrite=True)
    assert tree(folder) == before


def test_files_added_while_an_export_runs_are_seen(small, tmp_path, monkeypatch):
    folder = export_images(small, tmp_path).folder
    real = export.write_atomic

    def late(path, data):
        (folder / "late.png").write_bytes(b"mine")
        real(path, data)

    monkeypatch.setattr(export, "write_atomic", late)
    with pytest.raises(OutputError, match=r"late.png: is not of the export"):
        export_images(small, tmp_path, overwrite=True)
    assert (folder / "late.png").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["tiles"]


# Names from strangers


def test_a_source_is_no_formula_in_a_spreadsheet(tmp_path, monkeypatch):
    real = sets.NormalRecord
    names = iter(
        [
            "=1+2.png",
            "+1.png",
            "-1.png",
            "@SUM(A1).png",
            "'s.png",
            "\uff1d1.png",
            "a=1.png",
            "é.png",
        ]
    )

    def renamed(image, digest, source, *rest):
        return real(image, digest, next(names), *rest)

    monkeypatch.setattr(sets, "NormalRecord", renamed)
    write_set(tmp_path / "tiles")
    rows = table(export_images(tmp_path / "tiles", tmp_path / "out").folder)
    with NegativeSet.open(tmp_path / "tiles") as negative_set:
        sources = [negative.source for negative in negative_set]
    assert len(set(sources)) == 8
    for row, source in zip(rows, sources, strict=True):
        assert row["source"] == (source if source[0] in "aé" else f"'{source}")
        assert row["source"].removeprefix("'") == source  # and so nothing is lost
        assert all(cell[0] not in "=+@" for cell in row.values())


def test_devices_of_windows_are_no_folders_there(tmp_path, monkeypatch):
    real = sets.edits_of

    def renamed(*args):
        policy, edits = real(*args)
        return ("con" if policy == "swap" else policy), edits

    monkeypatch.setattr(sets, "edits_of", renamed)
    write_set(tmp_path / "tiles")
    write_set(tmp_path / "nul", category="nul")
    monkeypatch.setattr("manifests.confine.ON_WINDOWS", True)
    with pytest.raises(ConfigError, match=r"called con, which is no name.*--to folder"):
        export_images(tmp_path / "tiles", tmp_path / "out", to="mvtec")
    export_images(tmp_path / "tiles", tmp_path / "out", to="mvtec", policies=("scar",))
    export_images(tmp_path / "tiles", tmp_path / "plain")  # abnormal/con-000.png is no device
    with pytest.raises(SetError, match="category is no name for a folder"):
        export_images(tmp_path / "nul", tmp_path / "out")
    with pytest.raises(SetError, match="category is no name for a folder"):
        subset_set(tmp_path / "nul", tmp_path / "out", policies=("scar",))
    with pytest.raises(SetError, match="category is no name for a folder"):
        merge_sets([tmp_path / "nul"] * 2, tmp_path / "out")
    with NegativeSet.open(tmp_path / "nul") as negative_set:
        write_recipe(tmp_path / "nul.recipe", negative_set, with_donors=True)
    with pytest.raises(SetError, match=r"nul.recipe: its category is no name for a folder"):
        replay_set(tmp_path / "nul.recipe", tmp_path, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["tiles"]
