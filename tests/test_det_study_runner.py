"""A study under way: what fails, what is damaged, what changed, and a second run beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPO

import detector.study.cells as cells_module
import detector.study.runner as runner_module
from detector.checkpoint import CHECKPOINT_NAME
from detector.study.compare import assemble_plan, compare
from detector.study.runner import Runner
from manifests.errors import ConfigError, OutputError
from manifests.progress import Progress

PLAN = """
seeds = [0]
coresets = [0.2]
baseline = "untuned"
[build]
image_size = "64x48"
shard_images = 9
[fit]
batch = 3
updates = 1
frozen_start = 0
[arms.untuned]
updates = 0
[arms.tuned]
"""


@pytest.fixture
def plan_file(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    return path


def _runner(plan, out: Path) -> Runner:
    return Runner(
        plan,
        out,
        device="cpu",
        jobs=1,
        quiet=True,
        make_progress=lambda label, unit: Progress(label, unit, quiet=True),
    )


def _compare(plan, out: Path, *, is_tables_only: bool = False):
    return compare(
        plan,
        out,
        device="cpu",
        jobs=1,
        quiet=True,
        max_minutes=None,
        is_tables_only=is_tables_only,
        make_progress=lambda label, unit: Progress(label, unit, quiet=True),
    )


@pytest.fixture(scope="module")
def study(sample_data, tmp_path_factory) -> Path:
    """A finished study of `PLAN`; tests work on copies."""
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN)
    out = tmp_path_factory.mktemp("study")
    assert _compare(assemble_plan(path, data=[f"part={sample_data}"]), out).run.is_whole
    return out


@pytest.fixture
def copy(study, plan_file, sample_data, tmp_path) -> tuple[object, Path]:
    """The plan, and a copy of the finished study to work on."""
    out = tmp_path / "study"
    shutil.copytree(study, out)
    return assemble_plan(plan_file, data=[f"part={sample_data}"]), out


def _cell(runner: Runner, arm: str):
    (cell,) = [cell for cell in runner.cells if cell.arm.name == arm]
    return cell


def test_a_failed_build_and_a_diverged_training_leave_the_rest_to_go_on(copy, plan_file, capfd):
    _, out = copy
    text = PLAN.replace("seeds = [0]", "seeds = [0, 1]") + (
        "[sets.odd]\nlevels = [77]\n[arms.odd]\nset = 'odd'\n[arms.wild]\nlr = 1e30\nupdates = 3\n"
        "freeze_bn = false\n[arms.tail]\nupdates = 0\nstages = [2]\n"
    )
    plan_file.write_text(text)
    (spec,) = copy[0].data
    found = _compare(assemble_plan(plan_file, data=[f"part={spec.path}"]), out)
    run = found.run
    name = next(path.name for path in spec.path.iterdir())
    assert [label for label, _ in run.failed] == [
        "part: set odd",
        f"{name}: wild, seed 0",
        f"{name}: wild, seed 1",
    ]
    messages = [message for _, message in run.failed]
    assert "building the set odd failed" in messages[0]
    assert all("diverged" in message or "finite" in message for message in messages[1:])
    assert not any("\n" in message for message in messages)
    # It is tried once, though two seeds want it.
    assert capfd.readouterr().err.count("no saliency level 77") == 1
    # Two seeds of three arms, of which one seed of two was there.
    assert (run.done, run.total, run.fresh) == (6, 10, 4)
    assert found.report.is_file()


def test_an_interrupt_and_a_full_disk_stop_the_study(copy, monkeypatch):
    plan, out = copy
    runner = _runner(plan, out)
    _cell(runner, "untuned").path.unlink()
    for error in (KeyboardInterrupt, OutputError("the disk is full")):

        def stop(*_arguments, error=error, **_options):
            raise error

        monkeypatch.setattr(runner_module, "score_cells", stop)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            runner.run()


@pytest.mark.parametrize("part", ["scores", "record"])
def test_damaged_scores_count_as_missing_and_are_made_again(copy, part):
    plan, out = copy
    cell = _cell(_runner(plan, out), "untuned")
    before = cell.path.read_bytes()
    path = cell.path if part == "scores" else cell.record_path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="counts as missing"):
        found = _compare(plan, out, is_tables_only=True)
    assert (found.run.done, found.run.total) == (1, 2)
    found = _compare(plan, out)
    assert (found.run.fresh, found.run.is_whole) == (1, True)
    assert cell.path.read_bytes() == before


@pytest.mark.parametrize("content", ["damaged", "foreign"])
def test_a_checkpoint_that_cannot_be_used_is_trained_afresh(copy, content):
    plan, out = copy
    cell = _cell(_runner(plan, out), "tuned")
    folder = out / "extractors" / cell.extractor_key[:24]
    scores = cell.path.read_bytes()
    cell.path.unlink()
    (folder / "extractor.json").unlink()
    (folder / CHECKPOINT_NAME).write_bytes(b"damaged")
    if content == "foreign":
        from detector.checkpoint import Checkpoint, write_checkpoint

        write_checkpoint(folder, Checkpoint({"lr": 7}, 0, {}, {}))
    with pytest.warns(UserWarning, match=r"checkpoint.* tuned seed 0 is trained afresh"):
        assert _runner(plan, out).run().is_whole
    assert cell.path.read_bytes() == scores
    assert not (folder / CHECKPOINT_NAME).exists()


def test_an_extractor_of_another_set_is_not_taken_up(copy):
    plan, out = copy
    cell = _cell(_runner(plan, out), "tuned")
    path = out / "extractors" / cell.extractor_key[:24] / "extractor.json"
    cell.path.unlink()
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {"set_digest": "0" * 64}))
    with pytest.warns(UserWarning, match="trained on another set"):
        assert _runner(plan, out).run().is_whole
    assert json.loads(path.read_bytes())["set_digest"] == record["set_digest"]


def test_another_version_of_training_makes_other_extractors(copy, monkeypatch):
    plan, out = copy
    before = {cell.arm.name: cell.extractor_key for cell in _runner(plan, out).cells}
    monkeypatch.setattr(cells_module, "TRAIN_VERSION", 2)
    after = {cell.arm.name: cell.extractor_key for cell in _runner(plan, out).cells}
    assert before["untuned"] == after["untuned"]
    assert before["tuned"] != after["tuned"]


def test_the_key_of_an_untuned_cell_knows_which_images_a_set_leaves_out(copy):
    plan, out = copy

    def key(**options):
        sets = {"default": {**plan.sets["default"], **options}}
        return _cell(_runner(replace(plan, sets=sets), out), "untuned").key

    assert key() == key(clusters=2)
    assert len({key(), key(skip_bad=True), key(max_megapixels=50)}) == 3


@pytest.mark.parametrize(("options", "n_keys"), [({"updates": 0}, 1), ({"updates": 2}, 3)])
def test_a_gaussian_depends_on_the_seed_of_its_training_alone(copy, options, n_keys):
    plan, out = copy
    arm = replace(plan.arms[0], options={"detector": "gaussian", **options})
    plan = replace(plan, arms=(arm,), tables=(), seeds=(0, 1, 2), bank_draws=2)
    assert len({cell.key for cell in _runner(plan, out).cells}) == n_keys


def test_draws_of_all_seeds_are_different(copy):
    plan, out = copy
    plan = replace(plan, seeds=(0, 1, 999_999), bank_draws=3)
    cells = [cell for cell in _runner(plan, out).cells if cell.arm.name == "untuned"]
    assert len({cell.config.seed for cell in cells}) == len(cells) == 9


def test_two_categories_of_one_name_are_refused(sample_data, category_name, tmp_path):
    shutil.copytree(sample_data, tmp_path / "again")
    plan = assemble_plan(
        None,
        data=[f"one={sample_data}", f"two={tmp_path / 'again'}"],
        arms=["a:updates=0"],
        seeds=(0,),
    )
    with pytest.raises(
        ConfigError, match=f"data one and data two both have a category {category_name}"
    ):
        _runner(plan, tmp_path / "out")


def test_a_seed_that_would_draw_other_training_images_is_refused(tmp_path):
    import numpy as np

    from manifests.images import write_png

    data = tmp_path / "tiles"
    rng = np.random.default_rng(0)
    for kind, n in (("MT_Free", 5), ("MT_Crack", 2)):
        for number in range(n):
            path = data / kind / "Imgs" / f"{kind}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 255, (48, 40, 3), dtype=np.uint8)
            write_png(path, image)
            write_png(path.with_suffix(".png"), np.zeros((48, 40), dtype=np.uint8))
    arguments = {"arms": ["a:updates=0"], "seeds": (0,), "sets": ["default:seed=3"]}
    with pytest.raises(ConfigError, match="set default: --seed would also draw"):
        _runner(assemble_plan(None, data=[f"mtd={data}"], **arguments), tmp_path / "out")
    names = tmp_path / "list.txt"
    names.write_text("\n".join(f"MT_Free{number}.jpg" for number in range(4)))
    plan = assemble_plan(None, data=[f"mtd={data},train_list={names}"], **arguments)
    assert _runner(plan, tmp_path / "out").cells


def test_data_that_grew_get_a_set_of_their_own(copy, category_name, tmp_path):
    plan, out = copy
    data = tmp_path / "data"
    shutil.copytree(plan.data[0].path, data)
    good = data / category_name / "train" / "good"
    extra = shutil.copy(next((data / category_name / "test" / "good").iterdir()), good / "x.png")
    plan = replace(plan, data=(replace(plan.data[0], path=data),), arms=plan.arms[:1], tables=())
    grown = _runner(plan, out)
    assert grown.run().is_whole
    folder = _cell(grown, "untuned").set_request.folder
    assert len(json.loads((folder / category_name / "manifest.json").read_bytes())[
        "training_files"
    ]) == 10  # fmt: skip
    Path(extra).unlink()
    shrunk = _runner(plan, out)  # as it was before
    assert all(cell.is_done for cell in shrunk.cells)


@pytest.mark.slow
def test_two_runs_at_once_build_and_train_everything_once(plan_file, sample_data, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "detector.cli", "compare", str(plan_file)]
    command += ["--data", f"part={sample_data}", "--out", str(out), "--jobs", "1", "--quiet"]
    runs = [
        subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    (log,) = out.glob("sets/*/*/build.log")
    assert len(log.read_text().splitlines()) == 1
    assert len(list(out.glob("cells/*.npz"))) == 2
    (folder,) = (out / "extractors").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"extractor.json", "extractor.safetensors"}
    assert not (folder / CHECKPOINT_NAME).exists()
    assert "missing" not in (out / "report.md").read_text()
