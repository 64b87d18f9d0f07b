"""Every error a user can cause, typed, with the fields a caller needs to act on it.

`str(error)` is always one line: where, what, expected, got, next step. Only the command lines turn
these into exit codes and terminal output.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike


class CutswapError(Exception):
    """Base of all domain errors.

    Args:
        what: what is wrong, in a few words, without a full stop.
        path: the file or folder concerned.
        expected, got: what was asked for and what was found.
        hint: the next step, as an imperative ("pass --overwrite").
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        path: str | PathLike[str] | None = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else str(path)
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(what, self.path, expected, got, hint)

    def __str__(self) -> str:
        line = self.what if self.path is None else f"{self.path}: {self.what}"
        if self.expected is not None:
            line += f" (expected {self.expected}"
            line += ")" if self.got is None else f", got {self.got})"
        elif self.got is not None:
            line += f" (got {self.got})"
        if self.hint:
            line += f"; {self.hint}"
        return " ".join(line.split())

    def to_json(self) -> dict[str, str | None]:
        """The fields as plain JSON types, for commands that list problems."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "path": self.path,
            "expected": None if self.expected is None else str(self.expected),
            "got": None if self.got is None else str(self.got),
        }

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (joblib workers), so they must survive pickling whole.
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[CutswapError], fields: dict) -> CutswapError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    Exception.__init__(error, *fields.values())
    return error


class ConfigError(CutswapError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class DataError(CutswapError):
    """A data set folder that is missing, empty, ambiguous or not laid out as its format says."""


class ImageError(CutswapError):
    """One image or mask file that cannot be used."""


class BadImages(CutswapError):
    """Several unusable images, all of them, not only the first.

    Args:
        errors: one per image.
        what: the line that sums them up.
    """

    def __init__(
        self, errors: Sequence[CutswapError], *, what: str | None = None, hint: str | None = None
    ) -> None:
        count = len(errors)
        super().__init__(
            what or f"{count} unusable image{'s' if count != 1 else ''}",
            hint=hint or "repair or remove them, or pass --skip-bad to go on without them",
        )
        self.errors = tuple(errors)


class WeightsError(CutswapError):
    """Network weights that are missing, unreadable or do not fit."""


class EditError(CutswapError):
    """An edit that is malformed or does not fit the image it is applied to."""


class SetError(CutswapError):
    """A negative set (manifest or shard) that is missing, malformed, newer or incomplete."""


class DigestError(SetError):
    """Bytes that are not the ones that were recorded."""


class ModelError(CutswapError):
    """A model folder that is missing, damaged, or does not fit what it is used with."""


class DeviceError(CutswapError):
    """A device that was asked for and is not there."""


class OutputError(CutswapError):
    """An output folder that cannot be written."""


class WorkerError(CutswapError):
    """A worker process that was ended before its work was done."""
