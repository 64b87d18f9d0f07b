"""HTML and SVG put together from elements, so that whatever is not markup is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import MappingProxyType

from manifests.terminal import printable

Value = str | int | float | bool | None
"""Of an attribute: True is written as its name alone; False and None leave it out."""

_NOTHING: Mapping[str, Value] = MappingProxyType({})
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML or SVG already, and not escaped again."""

    __slots__ = ()


Child = str | Markup | None


def element(name: str, attributes: Mapping[str, Value] = _NOTHING, *children: Child) -> Markup:
    """An element with its attributes and children.

    Names of elements and attributes are our own words; values and text may be a stranger's.

    Args:
        name: of the element.
        attributes: see `Value`.
        children: text, which is escaped, or markup, which is not; None is nothing.
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Markup(start)
    return Markup(f"{start}{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after the other, text escaped."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def escaped(text: str) -> Markup:
    """Text as HTML shows it; markup as it is.

    Characters that no one sees, such as those that turn the direction of writing, are replaced as
    on a terminal, and so is what no UTF-8 file can hold.
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(printable(text), quote=True))


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(printable(text), quote=True)}"'
