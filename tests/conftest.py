"""Fixtures shared by the tests: a small rendered data set, a set and a model made from it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

REPO = Path(__file__).resolve().parent.parent
TILES = REPO.parent / "shared" / "data" / "mtd"
TILES_LIST = REPO.parent / "shared" / "data" / "mtd_train_filenames.txt"

# Small enough for seconds, large enough that a scar still fits.
IMAGE_SIZE = "96x80"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What the tests cache is theirs alone, and so are the sets that they take for familiar."""
    before = os.environ.get("CUTSWAP_CACHE")
    os.environ["CUTSWAP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CUTSWAP_CACHE"]
    else:
        os.environ["CUTSWAP_CACHE"] = before


@pytest.fixture(scope="session")
def tiles() -> Path:
    """The magnetic tiles, where someone put them beside the checkout."""
    if not TILES.is_dir():
        pytest.skip("the magnetic tiles (shared/data/mtd beside the checkout) are not here")
    return TILES


@pytest.fixture(scope="session")
def tiles_list(tiles: Path) -> Path:
    """The usual training list of the magnetic tiles."""
    if not TILES_LIST.is_file():
        pytest.skip("the magnetic tiles' training list is not here")
    return TILES_LIST


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory) -> Path:
    """A small rendered data set in MVTec layout: 9 training images, 4 + 4 test images."""
    from generator.sample_data import render_sample_data

    folder = tmp_path_factory.mktemp("data") / "sample"
    render_sample_data(folder, seed=0, train=9, test_good=4, per_defect=1)
    return folder


@pytest.fixture(scope="session")
def category_name(sample_data: Path) -> str:
    return next(path.name for path in sample_data.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def built(sample_data: Path, tmp_path_factory) -> Path:
    """Root of a negative set of the sample data, made by the real command line."""
    out = tmp_path_factory.mktemp("shards")
    invoke_gen(
        "build", sample_data, "--out", out, "--image-size", IMAGE_SIZE, "--jobs", 1,
        "--shard-images", 4,
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def fitted(built: Path, tmp_path_factory) -> Path:
    """Root of an untuned model of that set."""
    out = tmp_path_factory.mktemp("models")
    invoke_det("fit", built, "--out", out, "--updates", 0, "--coreset", 0.05)
    return out


def invoke_gen(*arguments: object, exit_code: int = 0):
    """Runs `cutswap-gen` in this process and checks its exit code."""
    from generator.cli import main

    return _invoke(main, arguments, exit_code)


def invoke_det(*arguments: object, exit_code: int = 0):
    """Runs `cutswap-det` in this process and checks its exit code."""
    from detector.cli import main

    return _invoke(main, arguments, exit_code)


def _invoke(command, arguments, exit_code: int):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def ctrl_c_raises():
    """As in a terminal: what is started in the background of a shell ignores the signal."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
