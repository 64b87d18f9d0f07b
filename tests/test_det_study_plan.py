"""Plans of a study: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.study.arm_config import arm_config
from detector.study.builds import build_command, request_set
from detector.study.compare import assemble_plan
from detector.study.plan import DataSpec, parse_options, parse_plan, read_plan
from manifests.errors import ConfigError

PLAN = """
note = "two arms"
seeds = [3, 1]
coresets = [0.01]
split = "validation"
baseline = "untuned"

[data.parts]
path = "parts"
train-list = "list.txt"
"""
FULL = """
seeds = [3, 1]
coresets = [0.01, 0.1]
baseline = "untuned"

[data.parts]
path = "parts"
train_list = "list.txt"

[build]
image-size = 64

[fit]
batch = 4

[sets.few]
clusters = 2
levels = [0, 1]

[arms.untuned]
updates = 0

[arms.tuned]
label = "CutSwap"
set = "few"
lr = 0.01

[[tables]]
name = "one"
title = "Does it help?"
arms = ["tuned"]
coresets = [0.1]
metrics = ["aupro"]
claims = [{ arm = "tuned", kind = "not-worse", margin = 0.005, paper = "yes" }]
"""


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_a_plan_is_read_with_shared_options_and_defaults(tmp_path):
    plan = read_plan(_written(tmp_path, FULL))
    assert plan.name == "study"
    assert plan.data == (DataSpec("parts", tmp_path / "parts", None, tmp_path / "list.txt"),)
    assert plan.seeds == (3, 1)
    assert plan.split == "report"
    assert dict(plan.sets) == {
        "default": {"image_size": 64},
        "few": {"image_size": 64, "clusters": 2, "levels": [0, 1]},
    }
    tuned = plan.by_name["tuned"]
    assert (tuned.label, tuned.set_name) == ("CutSwap", "few")
    assert dict(tuned.options) == {"batch": 4, "lr": 0.01}
    assert dict(plan.by_name["untuned"].options) == {"batch": 4, "updates": 0}
    (table,) = plan.tables
    assert (table.baseline, table.coresets, table.metrics) == ("untuned", (0.1,), ("aupro",))
    (claim,) = table.claims
    assert (claim.arm, claim.against, claim.margin) == ("tuned", "untuned", 0.005)


def test_without_tables_all_arms_stand_beside_the_first(tmp_path):
    plan = parse_plan(
        {"data": {"a": {"path": "x"}}, "arms": {"one": {}, "two": {"lr": 0.1}}},
        folder=tmp_path,
        name="p",
    )
    (table,) = plan.tables
    assert (table.baseline, table.arms) == ("one", ("one", "two"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [3, 1]", "seeds = [3, 3]"), "seeds must be a list of different numbers"),
        (("seeds = [3, 1]", "bank_draws = 0"), "bank_draws 0 cannot be used"),
        (("seeds = [3, 1]", "seeds = []"), "the plan has no seeds"),
        (("seeds = [3, 1]", "sedes = [3]"), "unknown key 'sedes'"),
        (("coresets = [0.01, 0.1]", "coresets = [0.01, 2.0]"), "coreset 2.0 cannot be used"),
        (("coresets = [0.1]", "coresets = [0.2]"), "table one: no coreset 0.2"),
        (('set = "few"', 'set = "many"'), "arm tuned: no set 'many'"),
        (('arms = ["tuned"]', 'arms = ["tuna"]'), "table one: no arm 'tuna'"),
        (('["aupro"]', '["auroc"]'), "table one: no metric 'auroc'"),
        (('"not-worse"', '"bettr"'), "claim on tuned: kind 'bettr' is unknown"),
        (("[data.parts]", "[dtaa.parts]"), "unknown key 'dtaa'"),
        (('path = "parts"', ""), "data.parts: no path"),
        (("[sets.few]", '[sets."a b"]'), "'a b' is no name"),
        (("seeds = [3, 1]", "seeds = [3"), "the plan is no TOML"),
        (("seeds = [3, 1]", 'split = "test"'), "split 'test' is unknown"),
    ],
)
def test_mistakes_in_a_plan_are_named_with_the_file(tmp_path, change, message):
    assert change[0] in FULL
    path = _written(tmp_path, FULL.replace(change[0], change[1], 1))
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_a_key_of_a_data_table_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'train-list'"):
        read_plan(_written(tmp_path, PLAN))


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")


def test_data_given_beside_a_plan_replace_those_of_the_same_name(tmp_path):
    plan = assemble_plan(
        _written(tmp_path, FULL), data=["parts=/other,format=mtd"], seeds=(7,), split="validation"
    )
    assert plan.data == (DataSpec("parts", Path("/other"), "mtd"),)
    assert plan.seeds == (7,)
    assert plan.split == "validation"


def test_other_coresets_take_their_tables_and_claims_along(tmp_path):
    path = _written(tmp_path, FULL)
    (table,) = assemble_plan(path, coresets=(0.1,)).tables
    assert table.coresets == (0.1,)
    plan = assemble_plan(path, coresets=(0.01,))
    assert plan.coresets == (0.01,)
    # Its only table was about another coreset: all arms are shown instead.
    assert [table.name for table in plan.tables] == ["all"]


def test_a_plan_can_be_made_of_options_alone():
    plan = assemble_plan(
        None,
        data=["parts=photos,train_list=names.txt"],
        sets=["k2:clusters=2"],
        arms=["untuned:updates=0", "tuned:set=k2,negatives=[swap, scar],loss=both"],
        coresets=(0.5,),
        seeds=(0, 1),
        baseline="untuned",
    )
    assert plan.data == (DataSpec("parts", Path("photos"), None, Path("names.txt")),)
    assert dict(plan.by_name["tuned"].options) == {"negatives": "[swap, scar]", "loss": "both"}
    assert plan.by_name["tuned"].set_name == "k2"
    assert dict(plan.sets["k2"]) == {"clusters": 2}


def test_options_of_a_plan_are_refused_beside_a_file(tmp_path):
    with pytest.raises(ConfigError, match="--arm belongs into the plan"):
        assemble_plan(_written(tmp_path, FULL), arms=["a:updates=0"])


@pytest.mark.parametrize("text", ["parts", "=x", "parts=", "parts=x,colour=red"])
def test_data_that_cannot_be_read_from_the_command_line(text):
    with pytest.raises(ConfigError, match="--data"):
        assemble_plan(None, data=[text], arms=["a"])


def test_options_of_the_command_line_are_read_as_toml_would():
    name, values = parse_options(
        'a:updates=0,lr=0.01,freeze-bn=true,levels=[0, 1],label="x, y",loss=both', option="--arm"
    )
    assert name == "a"
    assert values == {
        "updates": 0,
        "lr": 0.01,
        "freeze_bn": True,
        "levels": [0, 1],
        "label": "x, y",
        "loss": "both",
    }


def test_an_arms_options_make_the_config_that_fit_would_make():
    config, weights = arm_config(
        "a",
        {
            "schedule": "paper",
            "lr": 0.5,
            "train_bn": True,
            "negatives": {"swap": 1, "scar": 0.5},
            "stages": [1, 2],
            "reweight": True,
        },
        coreset=0.25,
        seed=4,
        device="cpu",
    )
    assert weights is None
    assert (config.train.updates, config.train.lr, config.train.freeze_bn) == (256, 0.5, False)
    assert (config.train.negatives, config.train.shares) == (("swap", "scar"), (1.0, 0.5))
    assert (config.coreset_ratio, config.stages, config.reweight) == (0.25, (1, 2), True)
    assert (config.seed, config.train.seed) == (4, 4)


def test_a_detector_that_is_no_text_is_refused():
    with pytest.raises(ConfigError, match="--detector"):
        arm_config("a", {"detector": ["gaussian", "x"]}, coreset=0.1, seed=0, device="cpu")


def test_a_switch_that_is_off_takes_its_counterpart():
    config, _ = arm_config("a", {"freeze_bn": False}, coreset=0.1, seed=0, device="cpu")
    assert config.train.freeze_bn is False
    config, _ = arm_config("a", {"reweight": False}, coreset=0.1, seed=0, device="cpu")
    assert config.reweight is False


def test_a_detector_without_a_bank_takes_no_coreset():
    config, _ = arm_config("a", {"detector": "gaussian"}, coreset=0.1, seed=2, device="cpu")
    assert (config.detector, config.seed) == ("gaussian", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lerning_rate": 1}, "arm a: .*lerning-rate"),
        ({"updates": -1}, "arm a: .*updates"),
        ({"lr": -1.0}, "arm a: --lr"),
        ({"seed": 1}, "plan's seeds"),
        ({"coreset": 0.1}, "plan's coresets"),
        ({"lr": True}, "--lr is no switch"),
    ],
)
def test_an_arm_that_fit_would_refuse_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        arm_config("a", options, coreset=0.1, seed=0, device="cpu")


def test_a_set_is_asked_for_as_a_user_would(tmp_path):
    data = DataSpec("parts", Path("photos"), "mvtec", None, ("bolt",))
    options = {"clusters": 2, "levels": [0, 1], "skip_bad": True}
    request = request_set(data, "few", options, tmp_path)
    command = build_command(request, jobs=2, device="cpu", quiet=True)
    assert command[1:5] == ["-m", "generator.cli", "build", "photos"]
    text = " ".join(command)
    assert "--clusters 2" in text
    assert "--levels 0,1" in text
    assert "--skip-bad" in text
    assert "--category bolt" in text
    assert "--store anchors" in text
    with pytest.raises(ConfigError, match="--out is chosen by compare"):
        request_set(data, "few", {"out": "x"}, tmp_path)
    with pytest.raises(ConfigError, match="--skip-bad cannot be false"):
        request_set(data, "few", {"skip_bad": False}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [3, 1]", 'seeds = ["3"]'), "seeds must be a list of different numbers"),
        (("seeds = [3, 1]", "seeds = [true]"), "seeds must be a list of different numbers"),
        (("seeds = [3, 1]", "seeds = [-1]"), "seed -1 cannot be used"),
        (("seeds = [3, 1]", "seeds = [0, 1000000]"), "seed 1000000 cannot be used"),
        (("seeds = [3, 1]", "validation_share = 0.6"), "validation_share 0.6 cannot"),
        (("seeds = [3, 1]", 'validation_share = "0.2"'), "validation_share '0.2' cannot"),
        (("seeds = [3, 1]", "validation_share = nan"), "validation_share nan cannot"),
        (("seeds = [3, 1]", "validation_seed = -1"), "validation_seed -1 cannot"),
        (("seeds = [3, 1]", "validation_seed = 0.5"), "validation_seed 0.5 cannot"),
        (("seeds = [3, 1]", "bank_draws = true"), "bank_draws True cannot"),
        (("seeds = [3, 1]", 'bank_draws = "2"'), "bank_draws '2' cannot"),
        (("seeds = [3, 1]", "split = 3"), "split must be text"),
        (("seeds = [3, 1]", "note = 3"), "note must be text"),
        (("seeds = [3, 1]", 'metrics = "aupro"'), "metrics must be a list of different texts"),
        (("coresets = [0.01, 0.1]", 'coresets = ["0.1"]'), "coresets must be a list of different"),
        (("coresets = [0.01, 0.1]", "coresets = [1" + "0" * 400 + "]"), "coresets must be a list"),
        (('baseline = "untuned"', "baseline = 3"), "baseline must be text"),
        (('path = "parts"', "path = 3"), "data.parts: path must be text"),
        (('path = "parts"', 'path = ""'), "data.parts: path must be text"),
        (('path = "parts"', 'path = "a\\u0000b"'), "data.parts: path must be text"),
        (('train_list = "list.txt"', "train_list = 3"), "data.parts: train_list must be text"),
        (('train_list = "list.txt"', "format = 3"), "data.parts: format must be text"),
        (('train_list = "list.txt"', 'categories = "bolt"'), "data.parts: categories must be a"),
        (('train_list = "list.txt"', "categories = [3]"), "data.parts: categories must be a list"),
        (("image-size = 64", "image-size = 64\nimage_size = 64"), "image_size is given twice"),
        (("image-size = 64", '"out=x" = true'), "'out=x' is no option"),
        (('label = "CutSwap"', "label = 3"), "arms.tuned: label must be text"),
        (('set = "few"', "set = 3"), "arms.tuned: set must be text"),
        (("lr = 0.01", "weights = 3"), "arms.tuned: weights must be text"),
        (("[[tables]]", "[tables]"), "tables must be a list of tables"),
        (('arms = ["tuned"]', 'arms = "tuned"'), "table 1: arms must be a list of different"),
        (('arms = ["tuned"]', "arms = [3]"), "table 1: arms must be a list of different texts"),
        (('arms = ["tuned"]', "arms = []"), "table one has no arms"),
        (("coresets = [0.1]", "coresets = []"), "table one has no coresets"),
        (('metrics = ["aupro"]', "metrics = []"), "table one has no metrics"),
        (('title = "Does it help?"', "title = 3"), "table 1: title must be text"),
        (('[{ arm = "tuned"', '["tuned", { arm = "tuned"'), "table 1: claims must be a list of"),
        (('{ arm = "tuned"', '{ arm = ["tuned"]'), "claim: arm must be text"),
        (('{ arm = "tuned"', '{ against = "tuned"'), "claim: no arm"),
        (('{ arm = "tuned"', '{ arm = "untuned"'), "claim on untuned: it is against itself"),
        (('{ arm = "tuned"', '{ arm = "tuned", metrics = []'), "it names no metrics"),
        (('{ arm = "tuned"', '{ arm = "tuned", coresets = [0.01]'), "no coreset of its table 0.01"),
        (("margin = 0.005", "margin = -1"), "margin -1.0 cannot be used"),
        (("margin = 0.005", 'margin = "0.1"'), "margin must be a number"),
        (("margin = 0.005", "margin = inf"), "margin must be a number"),
        (('kind = "not-worse"', 'kind = "better"'), "a margin says nothing here"),
        (('paper = "yes"', "paper = 3"), "claim: paper must be text"),
    ],
)
@pytest.mark.parametrize("coresets", [None, (0.1,)])
def test_values_of_the_wrong_kind_or_range_are_one_line(tmp_path, change, message, coresets):
    assert change[0] in FULL
    path = _written(tmp_path, FULL.replace(change[0], change[1], 1))
    if coresets is not None and "coresets" in change[0] + change[1]:
        return  # given beside the plan, they are not read from it
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")) as caught:
        assemble_plan(path, coresets=coresets)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["tables = [3]", "tables = 3", "tables = [{ claims = [3] }]"])
def test_odd_tables_are_refused_when_coresets_are_given_beside_them(tmp_path, text):
    with pytest.raises(ConfigError, match="must be a list of tables"):
        assemble_plan(_written(tmp_path, f"{text}\n[arms.a]"), data=["a=x"], coresets=(0.1,))


def test_a_plan_nested_beyond_reason_is_no_toml(tmp_path):
    with pytest.raises(ConfigError, match="no TOML"):
        read_plan(_written(tmp_path, "a = " + "[" * 100_000))
    assert parse_options("a:b=" + "{a=" * 5000, option="--arm")[1].keys() == {"b"}


def test_weights_are_relative_to_the_plan_like_all_its_paths(tmp_path):
    text = FULL.replace("clusters = 2", 'clusters = 2\nweights = "set.pth"')
    text = text.replace("lr = 0.01", 'weights = "sub/arm.pth"')
    plan = read_plan(_written(tmp_path, text))
    assert plan.sets["few"]["weights"] == str(tmp_path / "set.pth")
    assert plan.by_name["tuned"].options["weights"] == str(tmp_path / "sub/arm.pth")


def test_precision_does_not_depend_on_the_machine(monkeypatch):
    monkeypatch.setattr("manifests.devices.has_fast_bf16", lambda device: True)
    for options, precision in (({}, "fp32"), ({"precision": "auto"}, "bf16")):
        config, _ = arm_config("a", options, coreset=0.1, seed=0, device="cpu")
        assert config.train.precision == precision


def test_training_what_the_bank_never_sees_is_refused_with_the_way_out():
    for options in ({"stages": [1]}, {"freeze_stages": 3, "stages": [1, 2]}):
        with pytest.raises(ConfigError, match=r"arm a: every stage .* is frozen.*--updates 0"):
            arm_config("a", options, coreset=0.1, seed=0, device="cpu")
    arm_config("a", {"stages": [1], "updates": 0}, coreset=0.1, seed=0, device="cpu")
    arm_config("a", {"stages": [1], "freeze_stages": 1}, coreset=0.1, seed=0, device="cpu")
    gaussian = {"detector": "gaussian", "freeze_stages": 4}
    arm_config("a", gaussian, coreset=0.1, seed=0, device="cpu")
