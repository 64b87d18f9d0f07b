"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import REPO, invoke_det, invoke_gen

README = (REPO / "README.md").read_text(encoding="utf-8")

# The commands as printed, only smaller.
SMALLER = {
    "sample-data": ("--train", 6, "--test-good", 2, "--per-defect", 1),
    "build": ("--image-size", 64, "--jobs", 1),
    "preview": ("--count", 1),
    "fit": ("--updates", 2, "--batch", 2, "--frozen-start", 1, "--coreset", 0.1),
}


def test_commands_and_snippet_run(tmp_path, monkeypatch):
    block = README.split("<!-- commands")[1].split("```console\n")[1].split("```")[0]
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.strip().splitlines()]
    assert [command[1] for command in commands] == [
        "sample-data", "build", "inspect", "verify", "preview", "fit", "score", "eval",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for program, verb, *arguments in commands:
        invoke = {"cutswap-gen": invoke_gen, "cutswap-det": invoke_det}[program]
        invoke(verb, *arguments, *SMALLER.get(verb, ()))
    snippet = README.split("```python\n")[1].split("```")[0]
    exec(compile(snippet, "README.md", "exec"), {})
    shard = re.search(r'h5py\.File\("(.+?)"\)\["(.+?)"\]', README)
    import h5py

    with h5py.File(tmp_path / shard[1]) as file:
        assert file[shard[2]][0].shape == (64, 64, 3)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(docs/[a-z]+\.md)`", README))))
def test_named_documents_exist(path):
    assert (REPO / path).is_file()


def test_no_mark_of_a_draft_is_left():
    for path in [REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").glob("*.md")]:
        assert not re.search(r"@[A-Z]+@|TODO|TBD", path.read_text(encoding="utf-8")), path
