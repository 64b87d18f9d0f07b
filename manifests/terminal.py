"""Text on its way to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line without characters that could steer a terminal, each replaced by `\ufffd`.

    Sets, recipes and models may come from a stranger, and what they say of themselves is printed.
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def counted(n: int, noun: str) -> str:
    """`1 shard`, `2 shards`: a number with its noun."""
    return f"{n} {noun}{'s' if n != 1 else ''}"
