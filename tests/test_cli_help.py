"""Help pages, versions, and what the quick commands import."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from conftest import REPO, invoke_gen

from detector.cli import main as det
from generator.cli import main as gen

VERBS = [(group, name) for group in (gen, det, det.commands["bank"]) for name in group.commands]
HEAVY = ("torch", "timm", "matplotlib", "sklearn", "torchvision")


@pytest.mark.parametrize(("group", "name"), VERBS, ids=[name for _, name in VERBS])
def test_help_explains_every_option_and_shows_defaults(group, name):
    command = group.commands[name]
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        assert parameter.help, f"{name} {parameter.opts}: no help"
        has_default = isinstance(parameter.default, (int, float, str)) and not parameter.is_flag
        is_told = parameter.show_default or "[default" in parameter.help
        assert not has_default or is_told, f"{name} {parameter.opts}: default not shown"
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100


@pytest.mark.parametrize(("group", "name"), [(gen, "build"), (det, "fit")])
def test_every_option_stands_once_under_a_heading(group, name):
    command = group.commands[name]
    named = [one for names in command.sections.values() for one in names]
    assert len(named) == len(set(named)) and set(named) <= {one.name for one in command.params}
    text = CliRunner().invoke(group, [name, "--help"]).output
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Options", *command.sections]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert len(re.findall(rf"^  {parameter.opts[0]}\b(?!-)", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("group", [gen, det])
def test_group_help_has_an_example_of_each_kind(group):
    text = CliRunner().invoke(group, ["--help"]).output
    assert f"cutswap-{'gen' if group is gen else 'det'} " in text
    for name in group.commands:
        assert name in text


def test_no_line_of_the_list_of_commands_is_cut():
    for group in (gen, det):
        text = CliRunner().invoke(group, ["--help"]).output
        assert "..." not in text.split("Options:")[1]
    examples = re.findall(r"^  (cutswap-det .*?)  +\S", text, re.MULTILINE)
    columns = {re.match(r" *cutswap-det .*?  +", line).end() for line in text.splitlines()
               if line.startswith("  cutswap-det")}  # fmt: skip
    assert len(examples) == 4 and len(columns) == 1


def test_every_argument_that_takes_a_url_says_so():
    from manifests.option_types import LocationType

    found = {
        (name, parameter.name): parameter.metavar or parameter.type.name
        for group, name in VERBS
        for parameter in group.commands[name].params
        if isinstance(parameter.type, LocationType)
    }
    assert len(found) >= 9
    assert all(metavar.startswith("SET|URL") for metavar in found.values()), found


def test_usage_errors_exit_with_2():
    for group, arguments in ((gen, ["build"]), (det, ["fit"]), (gen, ["nonsense"]), (det, ["-x"])):
        assert CliRunner().invoke(group, arguments).exit_code == 2


def imported_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    program = f"import sys\n{code}\nprint('modules', *{{n.split('.')[0] for n in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^modules (.*)$", run.stdout, re.MULTILINE)[0].split())


@pytest.mark.parametrize("verb", ["--help", "build --help", "fit --help", "inspect", "verify"])
def test_quick_commands_load_no_heavy_library(verb, built):
    stage = "detector" if verb.startswith("fit") else "generator"
    arguments = verb.split() + ([str(built)] if verb in ("inspect", "verify") else [])
    code = f"from {stage}.cli import main\nmain({arguments!r}, standalone_mode=False)"
    loaded = imported_by(code)
    assert "click" in loaded
    assert not loaded & set(HEAVY)
    if verb != "verify":  # nothing else looks into arrays
        assert not loaded & {"numpy", "h5py", "cv2", "PIL", "joblib"}


def test_the_public_api_loads_torch_only_when_it_is_used():
    assert not imported_by("import cutswap; cutswap.NegativeSet") & set(HEAVY)
    assert "torch" in imported_by("import cutswap; cutswap.load_model")


def test_every_public_name_exists():
    import cutswap

    for name in cutswap.__all__:
        assert getattr(cutswap, name) is not None
    with pytest.raises(AttributeError):
        cutswap.nothing  # noqa: B018


def test_inspect_verify_and_preview(built, category_name, tmp_path):
    import json

    from manifests.images import read_image

    text = invoke_gen("inspect", built).stdout
    (record,) = json.loads(invoke_gen("inspect", built, "--json").stdout)
    assert record["digest"] in text and record["category"] == category_name
    assert "whole and unchanged" in invoke_gen("verify", built, "--quiet").stdout
    invoke_gen("verify", built, "--quick", "--quiet", "--expect", record["digest"])
    result = invoke_gen("verify", built, "--quiet", "--expect", "0" * 64, exit_code=1)
    assert record["digest"] in result.output
    result = invoke_gen("verify", built, "--quiet", "--expect", "0" * 64, "--json", exit_code=1)
    assert json.loads(result.stdout)[0]["got"] == record["digest"]
    invoke_gen("preview", built, "--out", tmp_path, "--count", 2, "--quiet")
    sheets = sorted((tmp_path / category_name).iterdir())
    assert len(sheets) == 2
    assert min(read_image(sheets[0]).shape[:2]) > 300


def test_preview_seed_and_category(built, category_name, tmp_path):
    for seed in (0, 1, 2):
        invoke_gen(
            "preview", built, "--out", tmp_path / str(seed), "--count", 2, "--seed", seed,
            "--category", category_name, "--quiet",
        )  # fmt: skip
    chosen = {
        tuple(sorted(path.name for path in (tmp_path / str(seed) / category_name).iterdir()))
        for seed in (0, 1, 2)
    }
    assert len(chosen) > 1
    for verb in ("inspect", "verify"):
        result = invoke_gen(verb, built, "--category", "absent", exit_code=2)
        assert "absent" in result.output and category_name in result.output


def test_make_knows_its_targets_without_a_warning():
    run = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True)
    assert not run.stderr
    for target in ("help", "demo", "test", "test-peers", "lint", "bench", "clean"):
        assert re.search(rf"^  make {target} +\S", run.stdout, re.MULTILINE)
    peers = subprocess.run(
        ["make", "-n", "test-peers"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    other = re.search(r"--target (\S+) ", peers)[1]
    assert f"CUTSWAP_OTHER_OPENCV={REPO / other} " in peers and "'.[peers]'" in peers
    demo = subprocess.run(
        ["make", "-n", "demo"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    for verb in ("sample-data", "build", "preview", "fit", "eval", "score"):
        assert re.search(rf"cutswap-(gen|det) {verb}\b", demo)


def verbs():
    """(program, words, command) of every command, those of groups among them."""

    def walk(program, words, command):
        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                yield from walk(program, (*words, name), one)
        else:
            yield program, words, command

    yield from walk("cutswap-gen", (), gen)
    yield from walk("cutswap-det", (), det)


@pytest.mark.parametrize(
    ("program", "words", "command"), [pytest.param(*one, id=" ".join(one[1])) for one in verbs()]
)
def test_every_verb_shows_an_example_with_options_that_it_has(program, words, command):
    start = " ".join((program, *words))
    examples = [
        line.strip() for line in (command.help or "").splitlines() if line.strip().startswith(start)
    ]
    assert examples, f"{start} --help has no example"
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for example in examples:
        assert len(example) <= 95
        typed = re.findall(r"(?<=\s)--?[a-z][a-z-]*", example.split("|")[0].split(">")[0])
        assert set(typed) <= known, example
