"""Which files of a folder are complete, with a clock that the test turns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detector.arrivals import SHORTEST_LOOK_S, Arrivals
from manifests.errors import DataError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def no_time() -> float:
    """Looks cost nothing, however slow the machine."""
    return 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def arrivals(inbox, clock) -> Arrivals:
    return Arrivals(inbox, settle_s=1.0, patience_s=10.0, clock=clock, cpu_clock=no_time)


def put(path: Path, content: str = "x", *, age: int = 0) -> None:
    """Writes a file whose time of change is sure to be another one than any before."""
    path.write_text(content)
    put.count = getattr(put, "count", 0) + 1
    when = 1_700_000_000 + put.count - age
    os.utime(path, (when, when))


def taken(arrivals: Arrivals, clock: Clock, seconds: float, most: int = 99) -> list[str]:
    """Names of what is complete after so many seconds of looking every tenth."""
    end = clock.now + seconds
    while clock.now < end - 1e-9:
        clock.now += 0.1
        arrivals.look()
    return [one.name for one in arrivals.take(most)]


def take_one(arrivals: Arrivals, clock: Clock, seconds: float):
    end = clock.now + seconds
    while clock.now < end - 1e-9:
        clock.now += 0.1
        arrivals.look()
    (one,) = arrivals.take(99)
    return one


def test_a_file_is_complete_once_it_has_not_changed_for_long_enough(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrivals.look()
    assert taken(arrivals, clock, 0.8) == []
    put(inbox / "a.png", "xx")  # it grows
    assert taken(arrivals, clock, 0.9) == []
    put(inbox / "a.png", "yy")  # as long as before, written anew
    assert taken(arrivals, clock, 0.9) == []
    assert taken(arrivals, clock, 0.5) == ["a.png"]
    assert taken(arrivals, clock, 20) == []  # it is in hand


def test_a_version_is_judged_once_and_another_one_again(arrivals, inbox, clock):
    put(inbox / "a.png")
    assert arrivals.judged(take_one(arrivals, clock, 1.5))
    assert taken(arrivals, clock, 20) == []
    os.chmod(inbox / "a.png", 0o600)  # other rights are no other content
    assert taken(arrivals, clock, 20) == []
    put(inbox / "a.png")
    assert arrivals.judged(take_one(arrivals, clock, 1.5))
    other = inbox / ".a"
    put(other)
    os.utime(other, ns=(0, (inbox / "a.png").stat().st_mtime_ns))
    os.replace(other, inbox / "a.png")  # as long and as old, but another file
    assert taken(arrivals, clock, 1.5) == ["a.png"]


def test_a_verdict_on_a_file_that_changed_meanwhile_does_not_count(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrival = take_one(arrivals, clock, 1.5)
    put(inbox / "a.png", "later")
    assert not arrivals.judged(arrival)
    assert arrivals.judged(take_one(arrivals, clock, 1.5))


def test_a_verdict_counts_where_the_file_has_gone(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrival = take_one(arrivals, clock, 1.5)
    (inbox / "a.png").unlink()
    assert arrivals.judged(arrival)
    taken(arrivals, clock, 1)
    assert len(arrivals) == 0


def test_what_changes_while_it_waits_in_a_burst_is_not_offered_as_it_was(arrivals, inbox, clock):
    for name in "abc":
        put(inbox / f"{name}.png")
    assert taken(arrivals, clock, 1.5, most=1) == ["a.png"]
    put(inbox / "b.png", "later")
    assert taken(arrivals, clock, 0.3) == ["c.png"]
    assert taken(arrivals, clock, 1.0) == ["b.png"]


def test_an_unreadable_file_is_tried_again_and_then_given_up_once(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrival = take_one(arrivals, clock, 1.5)
    assert not arrivals.failed(arrival)  # who writes it may be slow
    assert not arrivals.is_drained
    assert taken(arrivals, clock, 8.0) == []
    arrival = take_one(arrivals, clock, 1.0)
    assert arrivals.failed(arrival)
    assert arrivals.is_drained and taken(arrivals, clock, 60) == []
    os.chmod(inbox / "a.png", 0o600)  # now it may be readable
    assert not arrivals.failed(take_one(arrivals, clock, 1.5))


def test_a_file_that_was_only_slow_starts_anew(arrivals, inbox, clock):
    put(inbox / "a.png")
    assert not arrivals.failed(take_one(arrivals, clock, 1.5))
    taken(arrivals, clock, 5)
    put(inbox / "a.png", "complete")
    assert arrivals.judged(take_one(arrivals, clock, 1.5))
    put(inbox / "b.png")
    arrival = take_one(arrivals, clock, 1.5)
    put(inbox / "b.png", "while it was read")
    assert not arrivals.failed(arrival)
    assert arrivals.judged(take_one(arrivals, clock, 1.5))


def test_a_file_that_goes_leaves_nothing(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrivals.look()
    (inbox / "a.png").unlink()
    assert taken(arrivals, clock, 3) == [] and len(arrivals) == 0
    put(inbox / "b.png")
    arrival = take_one(arrivals, clock, 1.5)
    (inbox / "b.png").unlink()
    assert not arrivals.failed(arrival) and len(arrivals) == 0
    assert arrivals.is_drained


def test_only_images_of_the_folder_itself_count(arrivals, inbox, clock):
    put(inbox / "a.PNG")
    put(inbox / ".hidden.png")
    put(inbox / "a.png.part")
    put(inbox / "text.txt")
    (inbox / "folder.png").mkdir()
    put(inbox / "folder.png" / "inside.png")
    os.mkfifo(inbox / "pipe.png")
    put(inbox / "elsewhere")
    os.symlink(inbox / "elsewhere", inbox / "link.png")
    (inbox / os.fsdecode(b"odd\xff.jpg")).write_text("x")
    assert sorted(taken(arrivals, clock, 2)) == ["a.PNG", "link.png", "odd\udcff.jpg"]
    os.rename(inbox / "a.png.part", inbox / "b.png")
    assert taken(arrivals, clock, 2) == ["b.png"]


def test_a_link_that_leads_nowhere_is_given_up_once_and_taken_when_it_leads_somewhere(
    arrivals, inbox, clock
):
    os.symlink(inbox / "later", inbox / "link.png")
    broken = take_one(arrivals, clock, 2)
    assert not arrivals.failed(broken)  # whoever makes its target may be slow
    broken = take_one(arrivals, clock, 11)
    assert arrivals.failed(broken) and taken(arrivals, clock, 30) == []
    put(inbox / "later")
    whole = take_one(arrivals, clock, 2)
    os.unlink(inbox / "later")  # a share that is unmounted: what was read is judged, and stays so
    assert arrivals.judged(whole) and taken(arrivals, clock, 30) == []


def test_the_oldest_come_first_and_so_many_at_a_time(arrivals, inbox, clock):
    for age, name in ((1, "c"), (50, "a"), (20, "b")):
        put(inbox / f"{name}.png", age=age)
    assert taken(arrivals, clock, 1.5, most=2) == ["a.png", "b.png"]
    assert [one.name for one in arrivals.take(2)] == ["c.png"]


def test_a_burst_of_thousands_is_taken_once_each_and_in_order(arrivals, inbox, clock):
    for number in range(3000):
        put(inbox / f"{number:04d}.png")
    found = taken(arrivals, clock, 1.2, most=64)
    while len(found) < 3000:
        put(inbox / "late.png")  # more arrive meanwhile, and change before they settle
        more = taken(arrivals, clock, 0.1, most=500)
        assert more
        found += more
    assert found == [f"{number:04d}.png" for number in range(3000)]
    assert taken(arrivals, clock, 1.2) == ["late.png"] and len(arrivals) == 3001


def test_what_lay_there_need_not_count(inbox, clock):
    put(inbox / "old.png")
    arrivals = Arrivals(inbox, settle_s=1.0, is_old_wanted=False, clock=clock, cpu_clock=no_time)
    arrivals.look()
    put(inbox / "new.png")
    assert taken(arrivals, clock, 2) == ["new.png"]
    put(inbox / "old.png", "it was not complete")
    assert taken(arrivals, clock, 2) == ["old.png"]


def test_no_memory_of_files_that_have_gone(arrivals, inbox, clock):
    for round_ in range(5):
        for number in range(20):
            put(inbox / f"{round_}-{number}.png")
        taken_now = taken(arrivals, clock, 1.5)
        assert len(taken_now) == 20
        for path in inbox.iterdir():
            path.unlink()
    taken(arrivals, clock, 1)
    assert len(arrivals) == 0 and arrivals.take(99) == []


def test_a_folder_that_goes_is_waited_for_and_nothing_is_judged_twice(arrivals, inbox, clock):
    notes = []
    arrivals.on_note = notes.append
    put(inbox / "a.png")
    assert arrivals.judged(take_one(arrivals, clock, 1.5))
    os.rename(inbox, inbox.parent / "away")
    assert taken(arrivals, clock, 5) == []
    assert len(notes) == 1 and "waiting" in notes[0] and not arrivals.is_drained
    os.rename(inbox.parent / "away", inbox)
    put(inbox / "b.png")
    assert taken(arrivals, clock, 3) == ["b.png"]
    assert len(notes) == 2 and "is back" in notes[1]


@pytest.mark.parametrize("name", ["missing", "file.png"])
def test_a_folder_that_never_was_is_an_error(tmp_path, clock, name):
    (tmp_path / "file.png").write_text("x")
    with pytest.raises(DataError, match=name):
        Arrivals(tmp_path / name, clock=clock, cpu_clock=no_time).look()


@pytest.mark.parametrize(("has_cpu", "at_least", "at_most"), [(True, 5, 6), (False, 25, 27)])
def test_a_look_that_takes_long_is_followed_by_a_longer_rest(
    inbox, monkeypatch, has_cpu, at_least, at_most
):
    clock, cpu_clock = Clock(), Clock()
    arrivals = Arrivals(inbox, settle_s=1.0, clock=clock, cpu_clock=cpu_clock)
    arrivals.look()
    assert arrivals.rest_s() == pytest.approx(SHORTEST_LOOK_S)
    looks, scandir = [], os.scandir

    def slow(path):
        looks.append(clock.now)
        clock.now += 2.0
        cpu_clock.now += 2.0 if has_cpu else 0.0  # else a server far away
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    began = clock.now
    while clock.now < began + 100:
        clock.now += max(arrivals.rest_s(), 0.01)
        arrivals.look()
    # Of the processor a tenth of the time, of a server a half.
    assert at_least <= len(looks) <= at_most


def test_files_that_settle_are_looked_at_in_time(arrivals, inbox, clock):
    put(inbox / "a.png")
    arrivals.look()
    clock.now += 0.95
    arrivals.look()
    assert arrivals.rest_s() == pytest.approx(0.05)
