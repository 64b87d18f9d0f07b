"""A watch beside a camera that does everything wrong: some seconds, and half an hour as `slow`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPO

from reference.camera import Camera
from reference.line_file import lines_so_far

SETTLE_S, PATIENCE_S = 0.25, 2.0
MOST_BEHIND = 300
MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads /proc for memory and descriptors"
)


def resident_bytes(process: subprocess.Popen) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def descriptors(process: subprocess.Popen) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def cpu_s(process: subprocess.Popen) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in lines_so_far(path)]


def name_of(record: dict) -> bytes:
    raw = bytes.fromhex(record["path_hex"]) if "path_hex" in record else record["path"].encode()
    return os.path.basename(raw)


def clear(folder: Path, out: Path, after: int, complete: dict[str, bytes]) -> int:
    """Removes files that have their line, as who fetches them would; returns the lines read."""
    lines = lines_so_far(out)
    for line in lines[after:-8]:
        record = json.loads(line)
        if record.get("file_sha256") in complete:  # and is not to be written again
            (folder / os.fsdecode(name_of(record))).unlink(missing_ok=True)
    return max(after, len(lines) - 8)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(6, id="short"),
        pytest.param(
            int(os.environ.get("CUTSWAP_SOAK_SECONDS", 1800)), id="long", marks=pytest.mark.slow
        ),
    ],
)
def test_every_complete_file_has_one_line(seconds, fitted, category_name, tmp_path, capsys):
    inbox, out = tmp_path / "in", tmp_path / "lines.jsonl"
    inbox.mkdir()
    program = [
        sys.executable, "-m", "detector.cli", "watch", fitted / category_name, inbox, "--out", out,
        "--heatmaps", tmp_path / "heat", "--settle", SETTLE_S, "--patience", PATIENCE_S,
        "--device", "cpu",
    ]  # fmt: skip
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in program], cwd=REPO, stderr=log, stdout=subprocess.DEVNULL
        )
    camera = Camera(inbox, seed=seconds, settle_s=SETTLE_S, patience_s=PATIENCE_S, rest_s=0.15)
    samples: list[tuple[float, int, int]] = []
    try:
        wait_until(lambda: b"watching" in (tmp_path / "log").read_bytes(), 60)
        camera.start()
        began, cleared = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            time.sleep(1)
            samples.append((passed, resident_bytes(process), descriptors(process)))
            if out.exists():
                judged = out.read_bytes().count(b'"file_sha256"')
                camera.is_held = len(camera.dropped.complete) - judged > MOST_BEHIND
                cleared = clear(inbox, out, cleared, camera.dropped.complete)
        camera.stop.set()
        camera.join(60)
        assert camera.failure is None and not camera.is_alive()
        dropped = camera.dropped

        def is_all_told() -> bool:
            told = records(out)
            digests = {record.get("file_sha256") for record in told}
            failed = {name_of(record) for record in told if record["verdict"] == "error"}
            return dropped.complete.keys() <= digests and dropped.damaged <= failed

        wait_until(is_all_told, 120)
        time.sleep(SETTLE_S + PATIENCE_S + 1)  # what should have no line has had its time
        before, began = cpu_s(process), time.monotonic()
        time.sleep(1 if seconds < 60 else 30)
        idle = (cpu_s(process) - before) / (time.monotonic() - began)
        lying = len(os.listdir(inbox))
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0  # PyTorch takes its time where memory is short
    finally:
        camera.stop.set()
        process.kill()
        process.wait()
    assert out.read_bytes().endswith(b"\n")
    told = records(out)
    counts = Counter(record["file_sha256"] for record in told if "file_sha256" in record)
    assert {digest: counts[digest] for digest in dropped.complete} == dict.fromkeys(
        dropped.complete, 1
    )
    assert counts.keys() <= dropped.complete.keys() | dropped.replaced
    assert set(counts.values()) == {1}
    errors = Counter(name_of(record) for record in told if record["verdict"] == "error")
    assert errors.keys() - dropped.stalled == dropped.damaged - dropped.stalled
    assert all(errors[name] == 1 for name in dropped.damaged)
    log = (tmp_path / "log").read_text(errors="replace")
    assert "Traceback" not in log and "ended:" in log

    settled = [sample for sample in samples if sample[0] >= min(120, seconds / 3)]
    growth = max(rss for _, rss, _ in settled[len(settled) // 2 :]) - settled[0][1]
    assert growth < 64 * MIB
    assert max(fds for *_, fds in settled) <= settled[0][2] + 8
    assert idle < 0.25  # mostly a busy machine's noise; figures are in docs/inspection.md
    latencies = sorted(
        timestamp(record["time"]) - dropped.renamed_at[record["file_sha256"]]
        for record in told
        if record.get("file_sha256") in dropped.renamed_at
    )
    over_time = ", ".join(
        f"{settled[(len(settled) - 1) * part // 6][1] / MIB:.0f}" for part in range(1, 7)
    )
    with capsys.disabled():
        print(
            f"\n{seconds} s: {camera.written} dropped, {len(dropped.complete)} complete, "
            f"{len(told)} lines, {len(dropped.damaged)} damaged, {len(dropped.stalled)} stalled; "
            f"RSS {settled[0][1] / MIB:.0f} MiB after warm-up, then {over_time}; descriptors "
            f"{settled[0][2]} and {samples[-1][2]}; idle with {lying} files {100 * idle:.2f} % of "
            f"a core; from rename to line {latencies[len(latencies) // 2]:.3f} s at the median, "
            f"{latencies[int(0.99 * (len(latencies) - 1))]:.3f} s at p99"
        )


def wait_until(is_met, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_met():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def timestamp(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()
