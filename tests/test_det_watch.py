"""The whole of `watch`: lines, signals, pipes, and what lies in the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPO, invoke_det

from detector.arrivals import Arrivals
from manifests.digest import file_digest
from manifests.images import read_image
from reference.line_file import lines_so_far

FAST = ("--settle", "0.1", "--patience", "0.5", "--device", "cpu")


@pytest.fixture
def photos(sample_data, category_name) -> list[Path]:
    return sorted((sample_data / category_name / "test").rglob("*.png"))


@pytest.fixture
def inbox(tmp_path, photos) -> Path:
    """A folder in which three photos lie."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, photo in enumerate(photos[:3]):
        shutil.copy(photo, folder / f"{number}.png")
    return folder


class Beside(threading.Thread):
    """What a test does beside a watch that runs in this process and writes to a file.

    Args:
        out: the watch's `--out`.
        act: gets this thread.
    """

    def __init__(self, out: Path, act) -> None:
        super().__init__(daemon=True)
        self.out, self.act = out, act
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.act(self)
        except BaseException as error:
            self.failure = error
            if self.out.exists():  # so the watch runs, and takes the signal
                os.kill(os.getpid(), signal.SIGTERM)

    def lines(self, count: int) -> list[dict]:
        """The lines so far, once there are so many."""
        end = time.monotonic() + 60
        while len(lines := lines_so_far(self.out)) < count or not self.out.exists():
            assert time.monotonic() < end, "no line"
            time.sleep(0.01)
        return [json.loads(line) for line in lines]


def watch_beside(model: Path, inbox: Path, act, *options: object):
    """Runs a watch until `act` has ended it with a signal; its result, and the lines."""
    out = inbox.parent / "lines.jsonl"
    beside = Beside(out, act)
    beside.start()
    result = invoke_det("watch", model, inbox, "--out", out, *FAST, *options)
    beside.join(60)
    if beside.failure is not None:
        raise beside.failure
    return result, beside.lines(0)


def once(model: Path, inbox: Path, *options: object) -> list[dict]:
    """The lines of a watch that ends when every file has one."""
    out = inbox.parent / "once.jsonl"
    out.unlink(missing_ok=True)
    invoke_det("watch", model, inbox, "--once", "--out", out, *FAST, *options)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_lines_are_those_of_score(fitted, category_name, inbox):
    model = fitted / category_name
    result = invoke_det("score", model, inbox, "--output", "jsonl", "--quiet")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    result = invoke_det("score", model, inbox, "--output", "json", "--quiet")
    assert json.loads(result.stdout) == rows and len(rows) == 3
    expected = {record["path"]: record for record in rows}
    found = once(model, inbox)
    assert len(found) == 3
    for record in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
        other = expected[record["path"]]
        # Batches differ, and so may the last digits.
        assert record["score"] == pytest.approx(other["score"], rel=1e-4)
        assert record.keys() == other.keys()
        assert record["file_sha256"] == file_digest(Path(record["path"]))
        assert [record["height"], record["width"]] == [*read_image(record["path"]).shape[:2]]
        assert record["model"] == other["model"] and len(record["regions"]) <= 100


def test_what_cannot_be_judged_has_a_line_with_its_error(fitted, category_name, inbox, photos):
    (inbox / "cut.png").write_bytes(photos[0].read_bytes()[:2000])
    (inbox / "text.jpg").write_text("x")
    (inbox / "empty.bmp").write_bytes(b"")
    (inbox / "note.txt").write_text("x")
    (inbox / "folder.png").mkdir()
    shutil.copy(photos[0], os.fsencode(inbox) + b"/odd\xff.png")
    found = {record["path"]: record for record in once(fitted / category_name, inbox)}
    assert len(found) == 7
    errors = {
        Path(path).name: record["error"]["what"]
        for path, record in found.items()
        if record["verdict"] == "error"
    }
    assert errors == {
        "cut.png": "truncated PNG file",
        "text.jpg": "not an image",
        "empty.bmp": "the file is empty (0 bytes)",
    }
    odd = found[str(inbox / "odd\ufffd.png")]
    assert os.fsencode(inbox) + b"/odd\xff.png" == bytes.fromhex(odd["path_hex"])
    assert odd["verdict"] in ("good", "defect")
    assert "path_hex" not in found[str(inbox / "0.png")]


def test_an_odd_name_is_no_trouble_to_score(fitted, category_name, tmp_path, photos):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(photos[0], os.fsencode(folder) + b"/odd\xff\x1b[31m.png")
    for form, expected in (
        ("table", "/odd\ufffd\ufffd[31m.png\n".encode()),
        ("csv", b"/odd\xff\x1b[31m.png,"),
        ("json", b"/odd\\ufffd\\u001b[31m.png"),
        ("jsonl", b"/odd\\ufffd\\u001b[31m.png"),
    ):
        result = invoke_det("score", fitted / category_name, folder, "--output", form)
        assert expected in result.stdout_bytes


def test_it_follows_what_arrives_and_ends_on_sigterm(
    fitted, category_name, inbox, photos, monkeypatch
):
    away = inbox.parent / "away"
    is_missed = threading.Event()
    lose = Arrivals._lose

    def lose_and_tell(arrivals: Arrivals, error: OSError) -> None:
        lose(arrivals, error)
        is_missed.set()

    monkeypatch.setattr(Arrivals, "_lose", lose_and_tell)

    def act(beside: Beside) -> None:
        beside.lines(3)
        temporary = inbox / ".late"
        shutil.copy(photos[3], temporary)
        os.rename(temporary, inbox / "late.png")
        assert Path(beside.lines(4)[3]["path"]).name == "late.png"
        data = photos[4].read_bytes()
        with open(inbox / "slow.png", "wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 3 + 1):
                file.write(data[start : start + len(data) // 3 + 1])
                time.sleep(0.2)  # longer than --settle, shorter than --patience
        assert beside.lines(5)[4]["file_sha256"] == file_digest(photos[4])
        os.rename(inbox, away)
        assert is_missed.wait(60)
        os.rename(away, inbox)
        shutil.copy(photos[5], inbox / "late.png")  # a name of before
        assert beside.lines(6)[5]["file_sha256"] == file_digest(photos[5])
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result, lines = watch_beside(fitted / category_name, inbox, act, "--patience", 20)
    assert len(lines) == 6 and signal.getsignal(signal.SIGTERM) == before
    for said in ("watching", "waiting for it", "is back", "ended: 6 images"):
        assert result.stderr.count(said) == 1


def test_ctrl_c_finishes_the_line_and_a_later_run_appends(fitted, category_name, inbox, photos):
    for number in range(100):
        shutil.copy(photos[number % len(photos)], inbox / f"many-{number}.png")

    def act(beside: Beside) -> None:
        beside.lines(1)
        os.kill(os.getpid(), signal.SIGINT)

    model = fitted / category_name
    result, lines = watch_beside(model, inbox, act)
    assert 1 <= len(lines) < 103 and f"ended: {len(lines)} image" in result.stderr
    for path in inbox.glob("many-*"):
        path.unlink()
    out = inbox.parent / "lines.jsonl"
    before = out.read_bytes()
    invoke_det("watch", model, inbox, "--once", "--out", out, *FAST)
    assert out.read_bytes().startswith(before)
    assert len(out.read_bytes().splitlines()) == len(lines) + 3


def test_lines_on_stdout_and_a_reader_that_goes(fitted, category_name, inbox, photos):
    program = [sys.executable, "-m", "detector.cli", "watch", fitted / category_name, inbox]
    with subprocess.Popen(
        [*map(str, program), *FAST, "--quiet"], cwd=REPO, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            names = {Path(json.loads(process.stdout.readline())["path"]).name for _ in range(3)}
            assert names == {"0.png", "1.png", "2.png"}
            process.stdout.close()
            shutil.copy(photos[3], inbox / "3.png")
            assert process.wait(60) == 1
            assert process.stderr.read() == "error: stdout: its reader has gone\n"
        finally:
            process.kill()


def test_a_full_disk_ends_it_with_one_line(fitted, category_name, inbox, tmp_path):
    result = invoke_det(
        "watch", fitted / category_name, inbox, "--out", "/dev/full", "--quiet", *FAST, exit_code=1
    )
    assert "/dev/full: cannot be written, the disk is full" in result.output
    assert len(result.output.splitlines()) == 1
    (tmp_path / "taken").write_text("x")
    result = invoke_det(
        "watch", fitted / category_name, inbox, "--heatmaps", tmp_path / "taken" / "heat",
        "--once", "--quiet", "--out", tmp_path / "none.jsonl", *FAST, exit_code=1,
    )  # fmt: skip
    assert "cannot be written" in result.output and not (tmp_path / "none.jsonl").read_bytes()


def test_heat_maps_have_names_of_their_own(fitted, category_name, inbox, photos, tmp_path):
    from PIL import Image

    Image.open(photos[0]).save(inbox / "0.jpg")
    Image.open(photos[1]).save(inbox / "0.jpg.png")
    once(fitted / category_name, inbox, "--heatmaps", inbox / "heat")
    names = sorted(path.name for path in (inbox / "heat").iterdir())
    assert names == ["0.jpg.png", "0.jpg.png.png", "0.png", "1.png", "2.png"]
    for name in names:
        original = inbox / (name.removesuffix(".png") if ".jpg" in name else name)
        assert read_image(inbox / "heat" / name).shape == read_image(original).shape
    result = invoke_det(
        "watch", fitted / category_name, inbox, "--heatmaps", inbox / "." / "heat" / "..",
        exit_code=2,
    )  # fmt: skip
    assert "--heatmaps" in result.output


def test_what_is_missing_is_named(fitted, category_name, inbox, tmp_path):
    result = invoke_det("watch", fitted / category_name, tmp_path / "nowhere", exit_code=1)
    assert "nowhere: cannot be read" in result.output
    result = invoke_det("watch", tmp_path / "no", inbox, exit_code=1)
    assert "cutswap-det fit" in result.output


def test_min_area_is_asked_of_what_arrives(fitted, category_name, inbox):
    for record in once(fitted / category_name, inbox, "--min-area", "100%"):
        assert record["min_area_px"] == record["height"] * record["width"]
        assert record["verdict"] == "good"
