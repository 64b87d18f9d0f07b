"""Whether a model is whole and unchanged: all problems, not only the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import cast

from detector.model_folder import MODEL, digest_problems, read_record_bytes
from detector.model_record import (
    CALIBRATION,
    CALIBRATION_TENSORS,
    NORMALS,
    STATE_FILES,
    ModelRecord,
    parse_record,
    state_tensors,
)
from detector.normal_list import NORMALS_TENSORS
from manifests.digest import bytes_digest, file_digest
from manifests.errors import ModelError
from manifests.tensor_header import TensorHeader, read_header

AGAIN = "fetch the model again, or fit it again"


def verify_model(folder: str | PathLike[str], *, expect: str | None = None) -> list[ModelError]:
    """All problems of a model folder; an empty list means it is as `fit` wrote it.

    Completeness comes first, then the digests. A damaged model never raises. The log
    `training.csv` holds durations and belongs to no digest.

    Args:
        folder: the model's folder.
        expect: the model digest it must have, as its maker published it.

    Source: ours.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [ModelError("there is no such folder", path=folder)]
    try:
        data = read_record_bytes(folder)
    except ModelError as error:
        return [error]
    problems = list(digest_problems(folder, data))
    digest = bytes_digest(data)
    if expect is not None and expect.strip().lower() != digest:
        problems.append(
            ModelError(
                "is another model than expected", path=folder / MODEL, expected=expect, got=digest
            )
        )
    try:
        record = parse_record(data, folder / MODEL)
    except ModelError as error:
        return [*problems, error]
    return [*problems, *extra_files(folder, record), *file_problems(folder, record)]


def file_problems(folder: Path, record: ModelRecord) -> Iterator[ModelError]:
    """Files of the record that are missing, then those that are not the recorded ones."""
    is_there = {
        name: (folder / name).is_file() and not (folder / name).is_symlink()
        for name in sorted(record.files)
    }
    for name in is_there:
        if not is_there[name]:
            yield ModelError("is missing", path=folder / name, hint="fit again, or copy it again")
    for name in is_there:
        if is_there[name]:
            yield from _damage(folder / name, record)


def extra_files(folder: Path, record: ModelRecord) -> Iterator[ModelError]:
    """Files of tensors in the folder that the record does not name."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in record.files:
            yield ModelError(
                f"is not in {MODEL}", path=path, hint="move it out of the model's folder"
            )


def _damage(path: Path, record: ModelRecord) -> Iterator[ModelError]:
    """What is wrong with a file of tensors, whose values are not read.

    Whether the extractors are the network's can only be said with the network at hand; it is
    asked where they are loaded, before memory is taken for them.
    """
    try:
        got = file_digest(path)
    except OSError as error:
        yield ModelError(f"cannot be read ({error.strerror or error})", path=path)
        return
    if got != (recorded := record.files[path.name]):
        yield ModelError(
            "is damaged: its digest is not the recorded one",
            path=path,
            expected=recorded,
            got=got,
            hint="fit again, or copy it again",
        )
        return
    try:
        tensors = read_header(path, error=ModelError)
    except ModelError as error:
        yield error
        return
    config = record.config
    if path.name == STATE_FILES[config.detector]:
        yield from _misfit(path, tensors, state_tensors(config, record.version), record)
    if path.name == CALIBRATION:
        yield from _misfit(path, tensors, CALIBRATION_TENSORS, record)
    if path.name == NORMALS:
        yield from _misfit(path, tensors, NORMALS_TENSORS, record)


def _misfit(
    path: Path,
    tensors: Mapping[str, TensorHeader],
    wanted: Mapping[str, tuple[str, tuple[str, ...] | None]],
    record: ModelRecord,
) -> Iterator[ModelError]:
    """Where tensors are not those that the record speaks of."""
    owners = {name: _owner(name, wanted) for name in tensors}
    if set(owners.values()) != wanted.keys():
        yield ModelError(
            "holds other tensors than a model of this detector",
            path=path,
            expected=", ".join(sorted(wanted)),
            got=", ".join(sorted(tensors))[:120] or "none",
            hint=AGAIN,
        )
        return
    # Both thresholds come from all of the scores.
    sides: dict[str, int] = {"n": record.image_threshold.n}
    for name, owner in owners.items():
        dtype, letters = wanted[cast(str, owner)]  # what is not wanted was refused above
        shape = tensors[name].shape
        is_fit = tensors[name].dtype == dtype and (letters is None or len(shape) == len(letters))
        for letter, side in zip(letters or (), shape, strict=False) if is_fit else ():
            known = int(letter) if letter.isdecimal() else sides.setdefault(letter, side)
            is_fit = is_fit and side == known > 0
        if not is_fit:
            expected = ", ".join(str(sides.get(letter, letter)) for letter in letters or "?")
            yield ModelError(
                f"{_shown(name)} has another type or shape than a model of this detector",
                path=path,
                expected=f"{dtype} ({expected})",
                got=tensors[name],
                hint=AGAIN,
            )
    config = record.config
    for letter, what, most in (
        ("M", "patches", config.coreset_max),
        ("R", "references", config.references),
    ):
        if most is not None and sides.get(letter, 0) > most:
            yield ModelError(
                f"holds more {what} than its config allows",
                path=path,
                expected=f"at most {most}",
                got=sides[letter],
                hint=AGAIN,
            )


def _shown(name: str) -> str:
    """A stranger's name for a message: neither long nor with characters that do not print."""
    short = name[:80]
    return short if short.isprintable() else ascii(short)


def _owner(name: str, wanted: Mapping[str, object]) -> str | None:
    """Which of the wanted tensors this is; None for one that is not wanted."""
    module = name.partition("/")[0] + "/*"
    return name if name in wanted else module if module in wanted else None
