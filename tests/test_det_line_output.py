"""Lines that are written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import REPO

from detector.line_output import LineOutput, appended
from manifests.errors import OutputError
from reference.line_file import lines_so_far


def test_lines_are_appended(tmp_path):
    path = tmp_path / "lines.jsonl"
    for number in (1, 2):
        with appended(path) as output:
            output.write({"number": number, "text": "ü\n\u2028"})
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2]


def test_a_line_is_whole_for_who_reads_along_once_its_end_is_there(tmp_path):
    path = tmp_path / "lines.jsonl"
    records = [{"number": number, "text": "x" * (number % 1900)} for number in range(5000)]

    def write() -> None:
        with appended(path) as output:
            for record in records:
                output.write(record)

    writer = threading.Thread(target=write)
    writer.start()
    read = 0
    while writer.is_alive():
        lines = lines_so_far(path)
        assert [json.loads(line) for line in lines[read:]] == records[read : len(lines)]
        read = len(lines)
    assert len(lines_so_far(path)) == len(records)


def test_half_a_line_that_a_power_cut_left_spoils_no_other(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"number": 1}\n{"numb')
    with appended(path) as output:
        output.write({"number": 2})
    assert path.read_bytes() == b'{"number": 1}\n{"numb\n{"number": 2}\n'


@pytest.mark.parametrize("is_appended", [True, False])
def test_on_a_full_disk_the_part_that_fitted_is_taken_back(tmp_path, is_appended):
    """A limit on a file's size writes what still fits and then fails, as a full disk does."""
    path = tmp_path / "lines.jsonl"
    program = f"""
import os, resource, signal
from pathlib import Path
from detector.line_output import LineOutput, appended
from manifests.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path({str(path)!r})
def write(output):
    for number in range(100):
        output.write({{"number": number, "text": "x" * 50}})
try:
    if {is_appended}:
        with appended(path) as output:
            write(output)
    else:
        write(LineOutput(os.open(path, os.O_WRONLY | os.O_CREAT), path))
except OutputError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert "lines.jsonl: cannot be written" in run.stdout and len(run.stdout.splitlines()) == 1
    data = path.read_bytes()
    assert data.endswith(b"\n") and len(data) <= 1000 < len(data) + 80
    numbers = [json.loads(line)["number"] for line in data.splitlines()]
    assert numbers == list(range(len(numbers)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named():
    with appended(Path("/dev/full")) as output, pytest.raises(OutputError, match="disk is full"):
        output.write({"number": 1})


def test_a_reader_that_has_gone_is_an_error():
    reader, writer = os.pipe()
    output = LineOutput(writer, Path("stdout"))
    output.write({"number": 1})
    os.close(reader)
    with pytest.raises(OutputError, match="stdout: its reader has gone"):
        output.write({"number": 2})
    os.close(writer)


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_every_line():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = LineOutput(writer, Path("stdout"))
    parts: list[bytes] = []

    def read() -> None:
        while part := os.read(reader, 4096):
            parts.append(part)

    records = [{"number": number, "text": "x" * 3000} for number in range(100)]
    thread = threading.Thread(target=read)
    thread.start()
    for record in records:
        output.write(record)
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert [json.loads(line) for line in b"".join(parts).splitlines()] == records


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with (
        pytest.raises(OutputError, match="missing"),
        appended(tmp_path / "missing" / "lines.jsonl"),
    ):
        pass
