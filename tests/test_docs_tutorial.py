"""What the tutorial tells people to type works, command by command, on a smaller scale."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import REPO, invoke_det, invoke_gen

TUTORIAL = (REPO / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.removeprefix("$ "))
    for block in TUTORIAL.split("<!-- commands -->\n```console\n")[1:]
    for line in block.split("```")[0].strip().splitlines()
]
SMALLER = {
    "sample-data": ("--train", 6, "--test-good", 3, "--per-defect", 1),
    "build": ("--image-size", 64, "--jobs", 1),
    "preview": ("--count", 1),
    "fit": ("--updates", 2, "--batch", 2, "--frozen-start", 1, "--coreset", 0.1),
    "watch": ("--settle", 0.05, "--quiet"),
}


def test_every_step_has_its_command():
    verbs = [command[1] for command in COMMANDS if command[0].startswith("cutswap-")]
    assert verbs == [
        "sample-data", "check", "build", "preview", "fit", "eval", "report", "explain", "watch",
        "recalibrate", "bank", "export",
    ]  # fmt: skip


def test_from_the_first_photo_to_the_line(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not here: pip install 'cutswap[export]'")
    monkeypatch.chdir(tmp_path)
    for program, verb, *arguments in COMMANDS:
        match program:
            case "mkdir":
                Path(verb).mkdir()
            case "cp":
                shutil.copy(arguments[0], arguments[1])
            case "cutswap-gen":
                invoke_gen(verb, *arguments, *SMALLER.get(verb, ()))
            case "cutswap-det":
                invoke_det(verb, *arguments, *SMALLER.get(verb, ()))
            case _:
                raise AssertionError(program)
    (line,) = Path("verdicts.jsonl").read_text().splitlines()
    assert json.loads(line)["verdict"] in ("good", "defect")
    for made in ("sheets", "results", "report.html", "why.png", "heat", "bracket.onnx"):
        assert Path(made).exists(), made
    for model in ("models", "recalibrated", "updated"):
        assert list(Path(model).rglob("model.json")), model
