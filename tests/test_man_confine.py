"""Paths from others stay below the folder they are meant for, on any platform."""

import os
from pathlib import Path

import pytest

from manifests.confine import category_folder, confined_path, is_file_name
from manifests.errors import SetError
from manifests.shard_records import check_source

GOOD = ["a.png", "train/good/000.png", "é/ü.png", "~/x", "$HOME/x", "a b/c.d.e", "...", "-rf"]
OUTSIDE = [
    "",
    ".",
    "/",
    "/etc/passwd",
    "//server/share/x",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a\0b",
    "a\udcffb",
    None,
    5,
    b"a.png",
]
# POSIX has no objection to these.
NOT_ON_WINDOWS = [
    "C:\\x",
    "C:/x",
    "C:x",
    "c:",
    "\\x",
    "\\\\server\\share\\x",
    "..\\x",
    "a\\..\\..\\x",
    "a/b:stream",
    "CON",
    "con.png",
    "a/NUL/b.png",
    "nul.tar.gz",
    "COM1",
    "com¹.txt",
    "LPT9.x",
    "CONIN$",
    "aux .txt",
    "a./b",
    "a /b",
    "a.png.",
    "a.png ",
    "a*b",
    "a?b",
    "a|b",
    "<a>",
    'a"b',
    "a\nb",
]


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("source", GOOD)
def test_what_lies_below_is_found(tmp_path, source, windows):
    if windows and source == "...":
        assert confined_path(tmp_path, source, windows=True) is None
    else:
        assert confined_path(tmp_path, source, windows=windows) == tmp_path / source


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("source", OUTSIDE)
def test_what_could_lead_out_is_refused(tmp_path, source, windows):
    assert confined_path(tmp_path, source, windows=windows) is None


@pytest.mark.parametrize("source", NOT_ON_WINDOWS)
def test_windows_has_rules_of_its_own(tmp_path, source):
    assert confined_path(tmp_path, source, windows=True) is None
    if os.name == "posix":
        assert confined_path(tmp_path, source, windows=False) == tmp_path / source


def test_names_that_only_look_reserved_are_allowed_on_windows(tmp_path):
    for source in ("CONSOLE.png", "COM10.png", "com", "nul_1.png", "aux2/x", "icon"):
        assert confined_path(tmp_path, source, windows=True) == tmp_path / source


def test_links_may_turn_inside_but_not_lead_out(tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (root / "in" / "file").write_text("x")
    (root / "out").symlink_to(tmp_path)
    (root / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "inside").symlink_to("in")
    (root / "in" / "secret").symlink_to(tmp_path / "secret")
    (root / "in" / "dangling").symlink_to("/nowhere/at/all")
    for source in ("out/secret", "up/secret", "in/secret", "in/dangling", "out", "self/x"):
        assert confined_path(root, source) is None, source
    assert confined_path(root, "inside/file") == root / "inside" / "file"
    # The user's own way to the folder may lead over links as it likes.
    (tmp_path / "alias").symlink_to(root)
    assert confined_path(tmp_path / "alias", "in/file") == tmp_path / "alias" / "in" / "file"


def test_a_root_may_be_relative_and_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert confined_path("data", "a/b.png") == Path("data/a/b.png")
    assert confined_path("data", "../b.png") is None


def test_a_name_that_is_too_long_leads_nowhere(tmp_path):
    found = confined_path(tmp_path, "a" * 5000)
    assert found is None or not os.path.lexists(tmp_path / "a")


# Folders of categories.


@pytest.mark.parametrize("windows", [False, True])
def test_a_category_gets_its_folder(tmp_path, windows):
    assert category_folder(tmp_path, "metal_nut-2", windows=windows) == tmp_path / "metal_nut-2"
    # The user's own place: a link there leads where the user wants.
    (tmp_path / "far").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "far")
    assert category_folder(tmp_path, "linked", windows=windows) == tmp_path / "linked"
    for odd in ("", ".", "..", "a/b", "a/", "/", "a\0b", None):
        with pytest.raises(SetError, match="no name for a folder"):
            category_folder(tmp_path, odd, windows=windows)


@pytest.mark.parametrize("category", ["con", "nul", "com1", "lpt9", "aux", "prn"])
def test_a_device_of_windows_is_no_category_there(tmp_path, category):
    assert category_folder(tmp_path, category, windows=False) == tmp_path / category
    with pytest.raises(SetError, match=f"x.recipe: its category is no name.*{category}.*; use it"):
        category_folder(tmp_path, category, path="x.recipe", windows=True)
    assert not is_file_name(category, windows=True) and is_file_name(category, windows=False)
    assert is_file_name(f"{category}-000.png", windows=True)


# The rule of the format, for the names a set may hold at all.


@pytest.mark.parametrize("source", [*GOOD, "C:/x", "a\\b", "नमस्ते\u200d.png", "a" * 4096])
def test_honest_sources_are_accepted(source):
    check_source(source)


@pytest.mark.parametrize(
    "source",
    [
        *(source for source in OUTSIDE if isinstance(source, str)),
        "a//b",
        "./a",
        "a/./b",
        "a/",
        "a" * 4097,
        "a\nb",
        "a\x1b[31m",
        "a\x9b31m",
        "a\x7f",
        "a\u2028b",
        "a\u202egnp.exe",
        "a\u2066b",
    ],
)
def test_other_sources_are_refused_in_one_plain_line(source):
    with pytest.raises(SetError) as caught:
        check_source(source)
    assert str(caught.value).isascii() and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
