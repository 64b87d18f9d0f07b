"""The hints reach those who install the packages, and nothing is silenced to make mypy quiet."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cutswap

REPO = Path(__file__).parent.parent
PACKAGES = ("manifests", "generator", "detector")
STUB = REPO / "cutswap-stubs" / "__init__.pyi"
SOURCES = [
    *(path for name in PACKAGES for path in (REPO / name).rglob("*.py")),
    REPO / "cutswap.py",
]


def options(section: str, name: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser[section][name].split()


def imported(tree: ast.Module) -> dict[str, str]:
    """Name -> module of every `from module import name`, wherever it stands."""
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_every_package_says_that_it_is_typed():
    listed = {name.partition(".")[0] for name in options("options", "packages")}
    assert listed == {*PACKAGES, "cutswap-stubs"}
    for name in PACKAGES:
        assert (REPO / name / "py.typed").is_file()
        assert options("options.package_data", name) == ["py.typed"]
    assert options("options.package_data", "cutswap-stubs") == ["*.pyi"]


def test_the_stub_of_cutswap_is_cutswap():
    tree = ast.parse(STUB.read_text())
    assigned = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    found = imported(tree)
    assert found.keys() == set(cutswap.__all__) and assigned == {"__version__"}
    own = imported(ast.parse((REPO / "cutswap.py").read_text()))
    assert found == {name: own[name] for name in found}
    for name, module in cutswap._LAZY.items():
        assert found[name] == module
    # Without `as` a checker takes an import for the stub's own business.
    for node in ast.walk(tree):
        assert not isinstance(node, ast.alias) or node.asname == node.name


def test_nothing_is_silenced_as_a_whole():
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]
    overrides = settings.pop("overrides")
    assert "ignore_missing_imports" not in settings and "disable_error_code" not in settings
    assert set(settings["files"]) == {*PACKAGES, "cutswap.py"}
    for override in overrides:
        assert override.keys() == {"module", "ignore_missing_imports"}
        assert not {one.partition(".")[0] for one in override["module"]} & {"*", *PACKAGES}
    for path in SOURCES:
        for line in path.read_text().splitlines():
            if "type: ignore" in line:  # which error, and why it is none
                assert re.search(r"# type: ignore\[[a-z-]+\]  # \S", line), f"{path}: {line}"


@pytest.mark.slow
def test_an_installed_cutswap_has_types(tmp_path):
    pytest.importorskip("mypy")
    pytest.importorskip("setuptools")
    source, site = tmp_path / "source", tmp_path / "venv/lib" / f"python3.{sys.version_info[1]}"
    source.mkdir()
    for name in (*PACKAGES, "cutswap-stubs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cutswap.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--target", str(site / "site-packages"), str(source)])
    program = tmp_path / "program.py"
    program.write_text(
        "import cutswap\n"
        'reveal_type(cutswap.NegativeSet.open("part"))\n'
        "reveal_type(cutswap.__version__)\n"
        "cutswap.find_sets(3)\n"
        "cutswap.nothing\n"
    )
    interpreter = tmp_path / "venv" / "bin" / "python"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-incremental"]
    said = run([*mypy, "--python-executable", str(interpreter), program.name], tmp_path, code=1)
    lines = [line.partition(": ")[2] for line in said.splitlines()]
    assert lines[0] == 'note: Revealed type is "manifests.negative_set.NegativeSet"'
    assert lines[1] == 'note: Revealed type is "str"'
    assert lines[2].startswith('error: Argument 1 to "find_sets" has incompatible type "int"')
    assert lines[3].startswith('error: Module has no attribute "nothing"')
    assert said.splitlines()[4].startswith("Found 2 errors in 1 file")


def run(command: list[str], folder: Path = REPO, *, code: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout
