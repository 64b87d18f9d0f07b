"""The smallest region that counts: what keeps specks from making a part defective."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Self

from manifests.errors import ConfigError

_MOST_PX = 10**12


@dataclass(frozen=True)
class MinArea:
    """An area in pixels of the original image, or in percent of it.

    Attributes:
        amount: 0 or more; a whole number of pixels, or at most 100 percent.
        is_percent: which of them.

    Raises:
        ConfigError: another amount.
    """

    amount: Decimal = Decimal(0)
    is_percent: bool = False

    def __post_init__(self) -> None:
        most = 100 if self.is_percent else _MOST_PX
        is_whole = self.is_percent or self.amount == int(self.amount)
        if not (is_whole and 0 <= self.amount <= most):
            raise _refusal(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `25`, `25px` or `0.1%`.

        Raises:
            ConfigError: anything else.
        """
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?(px|%)?", text.strip(), re.ASCII)
        if match is None:
            raise _refusal(text)
        return cls(Decimal(match[1]), match[2] == "%")

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.amount:f}{'%' if self.is_percent else ' px'}"

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return self.amount > 0

    def in_px(self, height: int, width: int) -> int:
        """The fewest pixels of an image of these sides that count, rounded up, exactly."""
        if not self.is_percent:
            return int(self.amount)
        return math.ceil(Fraction(self.amount) * height * width / 100)


ANY_AREA = MinArea()


def _refusal(got: object) -> ConfigError:
    return ConfigError(
        "--min-area cannot be used",
        expected="whole pixels (25) or a percentage of the image, at most 100% (0.1%)",
        got=str(got)[:40],
    )
