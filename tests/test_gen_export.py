"""Export: a tree of PNG files that other tools and our own readers open, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import invoke_gen
from PIL import Image

import generator.export_images as export
from generator.cli import main
from generator.export_images import export_images
from generator.export_layout import LAYOUTS, number_names
from manifests.datasets import open_data
from manifests.digest import file_digest
from manifests.errors import ConfigError, DataError, DigestError, OutputError, SetError
from manifests.images import read_image, read_mask
from manifests.lock import folder_lock
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest, write_manifest
from reference.small_sets import H, W, write_set

N_NORMALS, N_NEGATIVES = 8, 18  # of write_set: two shards of 4 and 9
NON_COMMERCIAL = "CC BY-NC-SA 4.0"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A set of swaps, scars and blends whose images cover all but two columns on either side."""
    folder = tmp_path_factory.mktemp("sets") / "tiles"
    write_set(folder)
    return folder


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory) -> dict[str, Path]:
    """Folder of every layout's export of that set."""
    out = tmp_path_factory.mktemp("exports")
    return {to: export_images(small, out / to, to=to).folder for to in LAYOUTS}


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "negatives.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_terms(folder: Path, **terms: str) -> Path:
    manifest, _ = read_manifest(folder)
    write_manifest(folder, replace(manifest, **terms))
    return folder


# What is written


def test_the_layouts_are_the_documented_ones(exported):
    plain = tree(exported["folder"])
    assert exported["folder"].name == "tiles"
    assert {name.split("/")[0] for name in plain} == {
        "normal", "abnormal", "mask", "negatives.csv", "licence.txt", "export.json",
    }  # fmt: skip
    names = {path.name for path in (exported["folder"] / "abnormal").iterdir()}
    assert names == {path.name for path in (exported["folder"] / "mask").iterdir()}
    assert {"swap-000.png", "scar-000.png", "sgsf-005.png"} <= names and len(names) == N_NEGATIVES
    mvtec = tree(exported["mvtec"])
    assert {"train/good/000.png", "test/swap/000.png", "ground_truth/swap/000_mask.png"} <= set(
        mvtec
    )
    assert not any(name.startswith("test/good") for name in mvtec)
    for found in (plain, mvtec):
        assert len(found) == N_NORMALS + 2 * N_NEGATIVES + 3


@pytest.mark.parametrize("to", ["folder", "mvtec"])
def test_pixels_are_those_of_the_set_without_the_padding(small, exported, to):
    rows = table(exported[to])
    layout = LAYOUTS[to]
    with NegativeSet.open(small) as negative_set:
        assert len(rows) == len(negative_set) == N_NEGATIVES
        for i in range(negative_set.n_normals):
            found = np.array(Image.open(exported[to] / layout.normal.format(name=f"{i:03d}")))
            assert np.array_equal(found, negative_set.normal(i).image[:, 2 : W - 2])
        for row, negative in zip(rows, negative_set, strict=True):
            image = np.array(Image.open(exported[to] / row["file"]))
            mask = np.array(Image.open(exported[to] / row["mask"]))
            assert image.shape == (H, W - 4, 3) and mask.shape == (H, W - 4)
            assert np.array_equal(image, negative.image[:, 2 : W - 2])
            assert set(np.unique(mask)) <= {0, 255}
            assert np.array_equal(mask > 0, negative.mask[:, 2 : W - 2])
            of = read_image(exported[to] / row["normal"])
            assert np.array_equal(image[mask == 0], of[mask == 0])
            assert row["source"] == negative.source and row["digest"] == negative.digest
            assert row["policy"] == negative.policy
            assert (row["level"], row["repeat"]) == (str(negative.level), str(negative.repeat))


def test_a_set_stored_as_anchors_gives_the_same_tree(exported, tmp_path):
    write_set(tmp_path / "tiles", store="anchors")
    found = export_images(tmp_path / "tiles", tmp_path / "out")
    assert without_notice(tree(found.folder)) == without_notice(tree(exported["folder"]))


def without_notice(found: dict[str, str]) -> dict[str, str]:
    # They name the set digest, which differs between the two ways to store a set.
    return {name: one for name, one in found.items() if name not in ("licence.txt", "export.json")}


def test_jobs_and_a_second_time_change_nothing(small, exported, tmp_path):
    done = []
    summary = export_images(
        small,
        tmp_path,
        to="mvtec",
        jobs=2,
        make_progress=lambda *_: lambda *state: done.append(state),
    )
    assert tree(summary.folder) == tree(exported["mvtec"])
    assert done == [(13, 26), (26, 26)]
    assert (summary.normals, summary.negatives, summary.layout) == (8, 18, "mvtec")
    assert summary.set_digest == read_manifest(small)[1]
    assert os.listdir(tmp_path) == ["tiles"]


def test_policies_may_be_chosen(small, tmp_path):
    summary = export_images(small, tmp_path, to="mvtec", policies=("scar",))
    assert {path.name for path in (summary.folder / "test").iterdir()} == {"scar"}
    assert {row["policy"] for row in table(summary.folder)} == {"scar"}
    assert summary.negatives == 6 and summary.normals == N_NORMALS
    with pytest.raises(ConfigError, match=r"no negatives of scars \(expected some of scar, sgsf"):
        export_images(small, tmp_path / "other", policies=("scars",))
    with pytest.raises(ConfigError, match=r"unknown layout.*folder or mvtec"):
        export_images(small, tmp_path / "other", to="coco")
    assert not (tmp_path / "other").exists()


def test_a_policy_called_good_does_not_pass_for_good_images(tmp_path, monkeypatch):
    import reference.small_sets as sets

    real = sets.edits_of

    def renamed(*args):
        policy, edits = real(*args)
        return ("good" if policy == "swap" else policy), edits

    monkeypatch.setattr(sets, "edits_of", renamed)
    write_set(tmp_path / "tiles")
    with pytest.raises(ConfigError, match=r"called good.*--to folder"):
        export_images(tmp_path / "tiles", tmp_path / "out", to="mvtec")
    export_images(tmp_path / "tiles", tmp_path / "out")


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 20_000])
def test_images_and_masks_sort_alike(count):
    """anomalib pairs the sorted images with the sorted masks."""
    names = number_names(count)
    images = sorted(f"test/swap/{name}.png" for name in names)
    masks = sorted(f"ground_truth/swap/{name}_mask.png" for name in names)
    assert [Path(mask).stem for mask in masks] == [f"{Path(image).stem}_mask" for image in images]
    assert len(names[0]) >= 3 and len(set(names)) == count


# Who may read it


def test_our_own_readers_open_both(exported):
    (category,) = open_data(exported["mvtec"])
    assert (category.name, category.format) == ("tiles", "mvtec")
    assert len(category.train) == N_NORMALS and len(category.test) == N_NEGATIVES
    assert {sample.defect for sample in category.test} == {"swap", "scar", "sgsf"}
    for sample in category.test:
        mask = read_mask(sample.mask, binarise_at=category.mask_binarise_at)
        assert 0 < mask.mean() < 1
    (root,) = open_data(exported["mvtec"].parent)
    assert root == category
    (good,) = open_data(exported["folder"] / "normal")
    assert len(good.train) == N_NORMALS
    with pytest.raises(DataError, match="ambiguous"):  # not every image in there is good
        open_data(exported["folder"])


@pytest.mark.parametrize("to", ["folder", "mvtec"])
def test_a_set_can_be_built_from_an_export(exported, to, tmp_path):
    data = exported["folder"] / "normal" if to == "folder" else exported["mvtec"]
    invoke_gen(
        "build", data, "--out", tmp_path, "--policies", "random-swap", "--repeats", 1,
        "--image-size", f"{H}x{W - 4}", "--jobs", 1, "--quiet",
    )  # fmt: skip
    (folder,) = tmp_path.iterdir()
    originals = {file_digest(path) for path in sorted(data.rglob("*.png"))}
    with NegativeSet.open(folder) as negative_set:
        assert negative_set.n_normals == N_NORMALS
        assert {negative_set.normal(i).file_sha256 for i in range(N_NORMALS)} <= originals


@pytest.mark.slow
def test_anomalib_reads_both(exported, small):
    data = pytest.importorskip("anomalib.data", reason="anomalib is not installed")
    folder = data.Folder(
        name="tiles", root=exported["folder"], normal_dir="normal", abnormal_dir="abnormal",
        mask_dir="mask", num_workers=0, train_batch_size=2, eval_batch_size=2,
        val_split_mode="same_as_test", seed=0,
    )  # fmt: skip
    mvtec = data.MVTecAD(
        root=exported["mvtec"].parent, category="tiles", num_workers=0, train_batch_size=2,
        eval_batch_size=2, seed=0,
    )  # fmt: skip
    for module in (folder, mvtec):
        module.prepare_data()
        module.setup()
        defective = [module.test_data[n] for n in range(len(module.test_data))]
        defective = [item for item in defective if bool(item.gt_label)]
        good = len(module.test_data) - len(defective)
        assert len(defective) == N_NEGATIVES
        assert good >= 1 and len(module.train_data) + good == N_NORMALS  # tested on a part of them
        for item in defective:
            path = Path(item.image_path)
            root = exported["folder"] if module is folder else exported["mvtec"]
            row = next(r for r in table(root) if root / r["file"] == path)
            assert Path(item.mask_path) == root / row["mask"]
            image = np.array(Image.open(path)).transpose(2, 0, 1) / 255
            assert np.allclose(item.image.numpy(), image, atol=1e-6)
            mask = np.array(Image.open(root / row["mask"])) > 0
            assert np.array_equal(item.gt_mask.numpy().squeeze() > 0, mask)
        batch = next(iter(module.train_dataloader()))
        assert tuple(batch.image.shape[1:]) == (3, H, W - 4)


# Whole or not at all


def test_a_killed_export_leaves_nothing_that_reads_as_whole(small, exported, tmp_path):
    for calls in (1, 20):
        child = os.fork()
        if child == 0:
            die_at_call(calls)
            export_images(small, tmp_path, to="mvtec")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert os.listdir(tmp_path) == [".tiles.exporting"]
        with pytest.raises(DataError):
            open_data(tmp_path)
    summary = export_images(small, tmp_path, to="mvtec")
    assert tree(summary.folder) == tree(exported["mvtec"])
    assert os.listdir(tmp_path) == ["tiles"]


def die_at_call(calls: int) -> None:
    real, made = export.write_png, []

    def write(*args):
        made.append(args)
        if len(made) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)

    export.write_png = write


def test_an_error_and_an_interruption_leave_nothing(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for error, expected in ((full, OutputError), (interrupt, KeyboardInterrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(export, "write_png", error)
            with pytest.raises(expected):
                export_images(small, tmp_path)
        assert os.listdir(tmp_path) == []


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_damaged_set_is_not_exported(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "set")
    shard = folder / "shard-00001.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises((DigestError, SetError), match="shard-00001"):
        export_images(folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_export_is_replaced_only_on_demand_and_nothing_else_ever(small, tmp_path):
    first = export_images(small, tmp_path, policies=("swap",)).folder
    before = tree(first)
    with pytest.raises(OutputError, match="already holds an export; pass --overwrite"):
        export_images(small, tmp_path)
    assert tree(first) == before
    export_images(small, tmp_path, to="mvtec", overwrite=True)
    assert (first / "train").is_dir() and not (first / "normal").exists()
    assert os.listdir(tmp_path) == ["tiles"]
    own = tmp_path / "data" / "tiles"  # the data set itself, say
    own.mkdir(parents=True)
    with pytest.raises(OutputError, match="is no export"):
        (own / "photo.png").write_bytes(b"mine")
        export_images(small, own.parent, overwrite=True)
    assert (own / "photo.png").read_bytes() == b"mine"
    (own / "photo.png").unlink()
    export_images(small, own.parent)  # an empty folder is in nobody's way
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tiles").symlink_to(own)
    with pytest.raises(OutputError, match="is no export"):
        export_images(small, linked, overwrite=True)


def test_two_exports_into_one_folder(small, tmp_path):
    making = tmp_path / ".tiles.exporting"
    making.mkdir()
    with folder_lock(making), pytest.raises(OutputError, match="another run is writing here"):
        export_images(small, tmp_path)
    assert making.is_dir()  # the other one's
    export_images(small, tmp_path)
    assert os.listdir(tmp_path) == ["tiles"]


# Rights


def test_pixels_of_a_licence_with_terms_come_with_a_warning(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "set")
    with_terms(folder, licence=NON_COMMERCIAL, attribution="MVTec AD: Bergmann")
    with pytest.warns(UserWarning, match=r"non-commercial and share-alike.*export-recipe"):
        summary = export_images(folder, tmp_path)
    notice = (summary.folder / "licence.txt").read_text(encoding="utf-8")
    assert NON_COMMERCIAL in notice and "Bergmann" in notice
    assert read_manifest(folder)[1] in notice
    with_terms(folder, licence="CC BY 4.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_images(folder, tmp_path, overwrite=True)


def test_build_records_licence_and_attribution(exported, tmp_path):
    options = (
        "build", exported["folder"] / "normal", "--out", tmp_path, "--policies", "random-swap",
        "--image-size", "32x40", "--jobs", 1, "--quiet",
    )  # fmt: skip
    mine = ("--licence", "CC BY-NC 4.0", "--attribution", " Ölmühle GmbH ")
    invoke_gen(*options, *mine)
    manifest, digest = read_manifest(tmp_path / "normal")
    assert (manifest.licence, manifest.attribution) == ("CC BY-NC 4.0", "Ölmühle GmbH")
    (record,) = json.loads(invoke_gen(*options, *mine, "--json").stdout)
    assert record["is_unchanged"] and record["digest"] == digest
    # Another one is not passed over in silence; recording it takes no shard to be made again.
    result = invoke_gen(*options, exit_code=1)
    assert "another licence" in result.output and "--overwrite" in result.output
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "normal").glob("*.h5")}
    invoke_gen(*options, "--licence", "", "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert read_manifest(tmp_path / "normal")[0].licence == ""


# The command


def test_the_command_exports_every_category(tmp_path):
    for name, licence in (("a", ""), ("b", NON_COMMERCIAL)):
        write_set(tmp_path / "sets" / name, category=name)
        with_terms(tmp_path / "sets" / name, licence=licence)
    options = ("export", tmp_path / "sets", "--out", tmp_path / "out", "--jobs", 1, "--quiet")
    result = invoke_gen(*options, "--to", "mvtec", "--policies", "swap,scar", "--json")
    assert [Path(row["folder"]).name for row in json.loads(result.stdout)] == ["a", "b"]
    assert result.stderr.count("warning: ") == 1 and "out/b holds pixels" in result.stderr
    assert [category.name for category in open_data(tmp_path / "out")] == ["a", "b"]
    result = invoke_gen(*options, exit_code=1)
    assert "--overwrite" in result.output
    result = invoke_gen(*options, "--overwrite", "--category", "b")
    assert "8 normal images, 18 negatives" in result.stdout
    assert (tmp_path / "out/a/train").is_dir() and (tmp_path / "out/b/normal").is_dir()


def test_the_command_knows_every_layout():
    (option,) = [one for one in main.commands["export"].params if one.name == "to"]
    assert set(option.type.choices) == set(LAYOUTS)
