"""URLs as text: what is one, what lies below it, and how it is shown without its secrets."""

from __future__ import annotations

import re
from typing import TypeGuard
from urllib.parse import unquote, urlsplit, urlunsplit

from manifests.errors import ConfigError

HTTP = ("http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive: C:\
_SHOWN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)([^\s/?#'\"]*@)?([^\s?'\"]*)(\?[^\s'\"]*)?")


def is_url(text: object) -> TypeGuard[str]:
    """Whether `text` is a URL and not a path: `scheme://...` with two letters at least."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def scheme(url: str) -> str:
    """The scheme of a URL, lower-case. Raises ConfigError where it is none, or malformed."""
    match = _SCHEME.match(url)
    try:
        if match is None:
            raise ValueError
        urlsplit(url).port  # noqa: B018 (a password with a bare / ends up here)
    except ValueError:
        raise ConfigError(
            "is no URL" if match is None else "is a malformed URL",
            path=f"{match[0]}..." if match else redacted(url),
            hint="write special letters of a user name or password as %2F and the like",
        ) from None
    return match[1].lower()


def below(url: str, name: str) -> str:
    """The URL of `name` in the folder `url`. What follows a ? or # stays at the end over HTTP."""
    if url.split(":", 1)[0].lower() not in HTTP:
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment=""))


def redacted(text: str) -> str:
    """`text` with the user, the password and the query of every URL in it replaced by ***."""
    return _SHOWN.sub(
        lambda match: "".join(
            (match[1], "***@" if match[2] else "", match[3], "?***" if match[4] else "")
        ),
        text,
    )


def secrets(url: str) -> tuple[str, ...]:
    """What of a URL must not be shown, wherever a message repeats it: password and query."""
    parts = urlsplit(url)
    found = {parts.password or "", unquote(parts.password or ""), parts.query}
    return tuple(sorted((text for text in found if len(text) > 2), key=len, reverse=True))
