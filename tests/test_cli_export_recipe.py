"""`export-recipe -o`: what it makes where, and what it never replaces."""

from __future__ import annotations

import json

import pytest
from conftest import invoke_gen

from reference.small_sets import write_set


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_set(root / "one" / "a", category="a")
    for name in ("a", "b"):
        write_set(root / "two" / name, category=name, n=3)
    return root


def export(path, output, *options, exit_code=0):
    command = ("export-recipe", path, "--with-donors", "-o", output, *options)
    return invoke_gen(*command, exit_code=exit_code)


def test_a_name_without_the_suffix_is_a_folder_even_for_one_set(sets, tmp_path):
    export(sets / "one", tmp_path / "new" / "recipes")
    assert (tmp_path / "new" / "recipes" / "a.recipe").is_file()
    export(sets / "two", tmp_path / "new" / "recipes", exit_code=1)  # a.recipe is another one
    export(sets / "two", tmp_path / "both")
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["a.recipe", "b.recipe"]


def test_a_name_with_the_suffix_is_a_file_of_one_set(sets, tmp_path):
    export(sets / "one", tmp_path / "x.recipe")
    assert (tmp_path / "x.recipe").is_file()
    result = export(sets / "two", tmp_path / "y.recipe", exit_code=2)
    assert "one file holds the recipe of one set" in result.stderr
    (tmp_path / "z.recipe").mkdir()
    result = export(sets / "one", tmp_path / "z.recipe", exit_code=2)
    assert "is a folder, though its name ends in .recipe; change -o" in result.stderr
    result = export(sets / "one", tmp_path / "no" / "x.recipe", exit_code=1)
    assert f"error: {tmp_path / 'no'}: there is no such folder" in result.stderr
    assert "pass another -o" in result.stderr and "--out" not in result.stderr


def test_notes_are_not_replaced(sets, tmp_path):
    for name, exit_code in (("notes.txt", 2), ("notes", 2), ("notes.recipe", 1)):
        notes = tmp_path / name
        notes.write_text("precious\n")
        for options in ((), ("--overwrite",)):
            result = export(sets / "one", notes, *options, exit_code=exit_code)
            assert str(notes) in result.stderr
        assert notes.read_text() == "precious\n"


def test_the_same_recipe_is_nothing_to_do_and_another_needs_overwrite(sets, tmp_path):
    target = tmp_path / "x.recipe"
    first = export(sets / "one", target)
    assert "nothing to do" not in first.stdout
    assert "was there already, nothing to do" in export(sets / "one", target).stdout
    (row,) = json.loads(export(sets / "one", target, "--json").stdout)
    assert row["is_unchanged"] is True
    before = target.read_bytes()
    result = export(sets / "two", target, "--category", "a", exit_code=1)
    assert "pass --overwrite to replace it" in result.stderr and target.read_bytes() == before
    (row,) = json.loads(
        export(sets / "two", target, "--category", "a", "--overwrite", "--json").stdout
    )
    assert row["is_unchanged"] is False and target.read_bytes() != before
