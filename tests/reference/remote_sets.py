"""What tests of sets behind URLs share: a set to publish, and transfers without their waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import pull, transfer
from reference.small_sets import write_set

SHARD = "shard-00001.h5"


def publish(root: Path) -> tuple[Path, str]:
    """A set of three shards below a folder, and its digest."""
    folder = root / "tiles"
    return folder, write_set(folder, shards=3, n=3, r=6)[1]


def hurry(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No pauses, a cache of the test's own, and no process to parse each pull's shards."""
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("CUTSWAP_CACHE", str(cache))
    # It takes longer than all the rest.
    monkeypatch.setattr(pull, "probe_shards", lambda paths: None)


def one_line(error: pytest.ExceptionInfo) -> str:
    """The text of an error, which is one line of a bearable length."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    return text
