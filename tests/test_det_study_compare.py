"""A study from plan to report, on the sample data: what is shared, kept, resumed and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import invoke_det

from detector.cli import main
from detector.study.cell_scores import CellScores
from detector.study.compare import assemble_plan, compare
from detector.study.outcome import MEAN, mean_of
from detector.study.statistics import Resampled
from detector.study.validation import validation_split
from detector.study.weighted_metrics import metrics
from manifests.errors import ConfigError
from manifests.progress import Progress
from manifests.schema import read_manifest

PLAN = """
seeds = [0, 1]
coresets = [0.05, 0.2]
baseline = "untuned"
{split}
[build]
image_size = "96x80"
shard_images = 4
[fit]
batch = 4
updates = 2
frozen_start = 1
[sets.two]
clusters = 2
[arms.untuned]
updates = 0
[arms.tuned]
[arms.two]
label = "two clusters"
set = "two"
[arms.reweighted]
updates = 0
reweight = true
[arms.gauss]
detector = "gaussian"
updates = 0
[[tables]]
title = "Does it help?"
metrics = ["image_auroc", "pixel_auroc"]
claims = [{{ arm = "tuned", coresets = [0.2], paper = "it does" }}]
"""


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN.format(split=""))
    return path


def _run(plan, out, **changes):
    options = {"device": "cpu", "jobs": 1, "quiet": True, "max_minutes": None}
    options |= {"is_tables_only": False, **changes}
    return compare(
        plan, out, make_progress=lambda label, unit: Progress(label, unit, quiet=True), **options
    )


@pytest.fixture(scope="module")
def study(plan_file: Path, sample_data: Path, tmp_path_factory) -> Path:
    """A finished study, made by the command line."""
    out = tmp_path_factory.mktemp("study")
    result = invoke_det(
        "compare", plan_file, "--data", f"part={sample_data}", "--out", out, "--jobs", 1, "--quiet"
    )
    assert "undecided" in result.output or "hold" in result.output
    return out


def test_every_cell_has_scores_and_a_record(study: Path):
    # Two seeds of two coresets for four arms, and one untuned Gaussian, which no seed shapes.
    assert len(list((study / "cells").glob("*.npz"))) == 2 * 2 * 4 + 1
    records = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    assert {record["arm"] for record in records} == {
        "untuned", "tuned", "two", "reweighted", "gauss",
    }  # fmt: skip
    assert {record["coreset"] for record in records if record["arm"] == "gauss"} == {None}
    # Two trained arms with two seeds each; nothing is kept for untuned ones.
    assert len(list((study / "extractors").iterdir())) == 4
    assert not list(study.rglob("checkpoint*"))


def test_a_finished_study_computes_nothing_again(study: Path, plan_file, sample_data):
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*.npz")}
    plan = assemble_plan(plan_file, data=[f"part={sample_data}"])
    found = _run(plan, study)
    assert (found.run.fresh, found.run.is_whole) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*.npz")} == before


@pytest.mark.parametrize(
    ("arm", "set_name", "options"),
    [
        ("two", "two", ["--updates", 2, "--frozen-start", 1, "--batch", 4]),
        ("reweighted", "default", ["--updates", 0, "--reweight"]),
    ],
)
def test_a_cell_is_what_fit_and_eval_give(
    study: Path, sample_data, tmp_path, arm, set_name, options
):
    (folder,) = [path for path in (study / "sets").iterdir() if f"-{set_name}-" in path.name]
    # As a study trains, on every processor.
    options = [*options, "--coreset", 0.2, "--seed", 1, "--precision", "fp32"]
    invoke_det("fit", folder, "--out", tmp_path / "m", *options)
    result = invoke_det(
        "eval", tmp_path / "m", sample_data, "--out", tmp_path / "r", "--json", "--quiet"
    )
    (record,) = json.loads(result.stdout)
    cells = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    (cell,) = [c for c in cells if (c["arm"], c["coreset"], c["seed"]) == (arm, 0.2, 1)]
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        assert cell["metrics"][name] == pytest.approx(record["metrics"][name], abs=1e-6)


def test_the_second_set_borrows_the_saliency_of_the_first(study: Path, category_name):
    recipes = {}
    for path in (study / "sets").iterdir():
        manifest, _ = read_manifest(path / category_name)
        recipes[path.name.split("-")[1]] = manifest.recipe
        # What a build says about itself lies beside the set and belongs to no digest.
        lines = (path / category_name / "build.log").read_text().splitlines()
        is_reused = json.loads(lines[-1])["saliency_from"] is not None
        assert is_reused == ("-two-" in path.name)
    assert recipes["two"]["clusters"]["k"] == 2
    assert recipes["default"]["clusters"]["k"] == 4


def test_the_report_names_the_baseline_the_split_and_the_paper(study: Path):
    text = (study / "report.md").read_text()
    assert "## Does it help?" in text
    assert "coreset 0.05" in text and "coreset 0.2" in text
    assert "two clusters" in text
    assert "Paper: it does" in text
    assert "is left out of every figure" in text
    assert "missing" not in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (study / line.partition("](")[2].rstrip(")")).is_file()
    assert len(list((study / "tables").glob("*.csv"))) == 2


def test_a_study_stops_in_time_and_goes_on(study: Path, plan_file, sample_data, tmp_path):
    plan = assemble_plan(plan_file, data=[f"part={sample_data}"], coresets=(0.2,), seeds=(0,))
    # Sets and extractors are found again, in whichever folder they lie.
    (tmp_path / "sets").symlink_to(study / "sets")
    first = _run(plan, tmp_path, max_minutes=1e-6)
    assert 0 < first.run.done < first.run.total
    assert "cells are still missing" in (tmp_path / "report.md").read_text()
    second = _run(plan, tmp_path)
    assert second.run.is_whole
    assert second.run.fresh == first.run.total - first.run.done


def test_the_validation_part_counts_only_where_it_is_asked_for(study, plan_file, sample_data):
    counts = {}
    for split in ("report", "validation"):
        plan = assemble_plan(plan_file, data=[f"part={sample_data}"], split=split)
        found = _run(plan, study, is_tables_only=True)
        counts[split] = {(o.n_good, o.n_defective) for o in found.outcomes}
    # Four good test images, of which one is set aside; defects have one image each: too few.
    assert counts["report"] == {(3, 4)}
    assert counts["validation"] == set()


def test_several_banks_per_seed_are_averaged(study: Path, plan_file, sample_data, tmp_path):
    text = plan_file.read_text().replace("seeds = [0, 1]", "seeds = [0, 1]\nbank_draws = 2")
    path = tmp_path / "draws.toml"
    path.write_text(text)
    plan = assemble_plan(path, data=[f"part={sample_data}"], coresets=(0.2,))
    found = _run(plan, study)
    # The first banks are those that were there; the Gaussian has none and no second one.
    assert found.run.fresh == 2 * 4
    (outcome,) = found.outcomes
    assert "mean over 2 memory banks" in (study / "report.md").read_text()
    records = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    draws = [r for r in records if (r["arm"], r["coreset"]) == ("reweighted", 0.2)]
    assert sorted((r["seed"], r["draw"]) for r in draws) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({r["config"]["seed"] for r in draws}) == 4
    single = _run(
        assemble_plan(plan_file, data=[f"part={sample_data}"], coresets=(0.2,)),
        study,
        is_tables_only=True,
    )
    assert {row.n_seeds for row in outcome.rows} == {2}
    rows = {row.label: row for row in outcome.rows}
    others = {row.label: row for row in single.outcomes[0].rows}
    assert rows["gauss"].estimates == others["gauss"].estimates
    found = rows["reweighted"].estimates["pixel_auroc"].mean
    assert found != others["reweighted"].estimates["pixel_auroc"].mean
    values = []
    for file in study.glob("cells/*.npz"):
        record = json.loads(file.with_suffix(".json").read_bytes())
        if (record["arm"], record["coreset"]) == ("reweighted", 0.2):
            scores = CellScores.load(file)
            part = ~validation_split(scores.sources.tolist(), scores.defects.tolist())
            values.append(metrics(scores, part.astype(int), ("pixel_auroc",))["pixel_auroc"])
    assert found == pytest.approx(sum(values) / 4)


def test_options_alone_make_a_study(sample_data, tmp_path):
    result = CliRunner().invoke(
        main,
        ["compare", "--data", f"part={sample_data}", "--out", str(tmp_path), "--arm", "a:updates=0",
         "--arm", "b:updates=0,stages=[2]", "--coresets", "0.1", "--seeds", "0", "--jobs", "1",
         "--set", "default:image_size=96x80", "--quiet"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "report in" in result.output
    assert "leaves out the spread over seeds" in (tmp_path / "report.md").read_text()


def test_a_misspelt_option_is_refused_before_anything_is_built(sample_data, tmp_path):
    plan = assemble_plan(None, data=[f"part={sample_data}"], arms=["a:updats=3"], seeds=(0,))
    with pytest.raises(ConfigError, match="arm a"):
        _run(plan, tmp_path)
    assert not any((tmp_path / "sets").iterdir())


def test_the_validation_part_is_written_before_anything_is_made(sample_data, tmp_path):
    plan = assemble_plan(None, data=[f"part={sample_data}"], arms=["a:updates=0"], seeds=(0,))

    class Stopped(Exception):
        pass

    def stop(*_: object):
        raise Stopped

    with pytest.raises(Stopped):
        compare(
            plan,
            tmp_path,
            device="cpu",
            jobs=1,
            quiet=True,
            max_minutes=None,
            is_tables_only=False,
            make_progress=stop,
        )
    assert len(list(tmp_path.glob("validation-*.csv"))) == 1
    assert not any((tmp_path / "cells").iterdir())


def test_the_feature_pass_is_part_of_what_a_cell_took(study: Path):
    records = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    shares = {record["arm"]: record["feature_seconds"] for record in records}
    assert shares.pop("gauss") == 0  # in its own seconds
    assert all(share > 0 for share in shares.values())


def test_an_extractor_says_what_it_was_made_with(study: Path):
    for path in (study / "extractors").glob("*/extractor.json"):
        record = json.loads(path.read_bytes())
        assert record["versions"].keys() >= {"torch", "timm", "cutswap"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ["a=x", "a=y"], "arms": ["b"]}, "--data a is given twice"),
        ({"data": ["a=x"], "arms": ["b", "b:lr=1"]}, "--arm b is given twice"),
        ({"data": ["a=x"], "arms": ["b"], "sets": ["c", "c"]}, "--set c is given twice"),
        ({"data": ["../a=x"], "arms": ["b"]}, "is no name"),
    ],
)
def test_names_on_the_command_line_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        assemble_plan(None, **options)


def test_the_mean_of_categories_is_taken_seed_by_seed_and_draw_by_draw():
    import numpy as np

    parts = [
        Resampled(
            images=((name, "good", ""),),
            known=(True,),
            draw=(2, 0),
            values={"aupro": np.array(values)},
            replicates={"aupro": np.array(drawn)},
            n_images={"aupro": 3},
            n_parts=1,
        )
        for name, values, drawn in (
            ("a", [0.2, 0.4], [[0.1, 0.3], [0.2, 0.4]]),
            ("b", [0.6, 0.8], [[0.3, 0.5], [0.6, 0.8]]),
        )
    ]
    found = mean_of(parts)
    assert found.values["aupro"].tolist() == pytest.approx([0.4, 0.6])
    assert found.replicates["aupro"].tolist() == [
        pytest.approx([0.2, 0.4]),
        pytest.approx([0.4, 0.6]),
    ]
    assert found.n_images == {"aupro": 6}
    assert MEAN != "a"
