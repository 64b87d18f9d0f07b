"""What is a URL, and what of it is shown."""

from pathlib import Path

import pytest

from manifests.errors import ConfigError
from manifests.remote import is_url, pull_set
from manifests.url import below, redacted
from reference.remote_sets import one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/set", True),
        ("http://[::1]:8000/x", True),
        ("file:///tmp/x", True),
        (r"C:\sets", False),
        ("C://sets", False),
        ("sets/bottle", False),
        ("://x", False),
        (Path("s3://bucket"), False),
    ],
)
def test_a_url_has_a_scheme_of_two_letters_or_more(text, expected):
    assert is_url(text) is expected


def test_user_password_and_query_are_not_shown():
    text = "401 at ftp://me:p@ss@host/a/b and https://x.org/s?sig=abc&b=1, ok"
    assert redacted(text) == "401 at ftp://***@host/a/b and https://x.org/s?*** ok"


def test_names_go_before_the_query_over_http_only():
    assert below("https://h/a/?sig=1", "m.json") == "https://h/a/m.json?sig=1"
    assert below("s3://b/a?b/", "m.json") == "s3://b/a?b/m.json"


def test_a_malformed_url_is_not_repeated(tmp_path):
    with pytest.raises(ConfigError) as error:
        pull_set("https://me:pa/ss@host/set", tmp_path)
    assert "malformed URL" in one_line(error) and "pa/ss" not in one_line(error)
