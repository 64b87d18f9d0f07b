"""The part of the test images that choices are made on, so that the rest stays untouched by them.

It is a rule, not a draw: per defect type the parts whose hashed name is smallest, each with all its
images. It depends on names alone, hence on no order, scores or random state, and anyone can check
it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.atomic import write_atomic
from manifests.errors import ConfigError, DataError

RULE = "sha256-per-defect-by-part"
_SURE_FROM = 5  # a stratum of this many images always gives at least one
_COLUMNS = ["source", "defect"]
_HEADER = re.compile(
    r"# rule=(?P<rule>\S+) seed=(?P<seed>\d{1,18}) share=(?P<share>0\.\d{1,17})"
    r" images=(?P<images>\d{1,9}) validation=(?P<validation>\d{1,9})"
)
_MAX_FILE_BYTES = 1 << 26
_WRITE_AGAIN = "write it again from this data, or bring the data that it was written for"


def validation_split(
    sources: Sequence[str],
    defects: Sequence[str],
    *,
    parts: Sequence[str] | None = None,
    seed: int = 0,
    share: float = 0.2,
) -> np.ndarray:
    """Marks the validation part of a category's test images.

    Within each defect type, "good" included, of k images, parts are taken in the order of the
    SHA-256 of "validation|SEED|NAME" until they have `round(share * k)` images, at least one where
    k is 5 or more; NAME is the part's alphabetically first image of that type. One part is left
    whatever the share.

    Args:
        sources: distinct names of the test images.
        defects: their defect types, "good" where there is none.
        parts: what each image shows; images of one part and defect type stay together. Empty, or
            without `parts`: a part by itself.
        seed: 0 or more.
        share: above 0, at most 0.5.

    Returns:
        (n,) bool, True for validation; the same for every order of the images.

    Raises:
        ConfigError: seed or share out of range.
        DataError: two images of one name.
        ValueError: sources, defects and parts differ in length.

    Source: ours.
    """
    parts = [""] * len(sources) if parts is None else parts
    if not len(sources) == len(defects) == len(parts):
        raise ValueError(f"{len(sources)} sources, {len(defects)} defects, {len(parts)} parts")
    if seed < 0:
        raise ConfigError("the validation seed cannot be used", expected="0 or more", got=seed)
    if not 0 < share <= 0.5:
        raise ConfigError(
            "the validation share cannot be used", expected="above 0, at most 0.5", got=share
        )
    name, times = Counter(sources).most_common(1)[0] if len(sources) else ("", 0)
    if times > 1:
        raise DataError(f"{times} test images of one name", got=repr(name))
    is_validation = np.zeros(len(sources), dtype=bool)
    for defect in set(defects):
        together: dict[str, list[int]] = {}
        for index in np.flatnonzero(np.array(defects) == defect).tolist():
            # A part's name cannot be taken for an image's: an image has its own alone.
            key = f"part {parts[index]}" if parts[index] else f"image {sources[index]}"
            together.setdefault(key, []).append(index)
        groups = [
            (_rank(seed, min(sources[index] for index in members)), members)
            for members in together.values()
        ]
        n_images = sum(len(members) for _, members in groups)
        wanted = max(round(share * n_images), 1 if n_images >= _SURE_FROM else 0)
        taken = 0
        for _, members in sorted(groups)[:-1]:
            if taken >= wanted:
                break
            is_validation[members] = True
            taken += len(members)
    return is_validation


def write_split(
    path: Path,
    sources: Sequence[str],
    defects: Sequence[str],
    *,
    parts: Sequence[str] | None = None,
    seed: int = 0,
    share: float = 0.2,
) -> np.ndarray:
    """Writes the validation part as a text file that can be committed and read by anyone.

    The first line holds rule, seed, share and counts; CSV of source and defect follows, one line
    per validation image, sorted by source.

    Returns:
        (n,) bool, as `validation_split`, which also says what may be raised.

    Raises:
        OutputError: the file cannot be written.

    Source: ours.
    """
    is_validation = validation_split(sources, defects, parts=parts, seed=seed, share=share)
    rows = sorted((sources[i], defects[i]) for i in np.flatnonzero(is_validation).tolist())
    text = io.StringIO()
    text.write(
        f"# rule={RULE} seed={seed} share={_plain(share)} "
        f"images={len(sources)} validation={len(rows)}\n"
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    # Names of files that are no Unicode keep their bytes.
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return is_validation


def read_split(
    path: Path,
    sources: Sequence[str],
    defects: Sequence[str],
    *,
    parts: Sequence[str] | None = None,
) -> np.ndarray:
    """Reads a validation part and checks that it is the rule's own for these test images.

    Args:
        path: file written by `write_split`.
        sources, defects, parts: of the test images, in any order.

    Returns:
        (n,) bool, True for validation.

    Raises:
        DataError: the file is missing or malformed, names images that the data does not have, was
            written for other test images, or is not what its rule and seed give.

    Source: ours.
    """
    header, rows = _parse(path)
    if header["rule"] != RULE:
        raise DataError(
            "a validation split by another rule", path=path, expected=RULE, got=header["rule"]
        )
    known = set(sources)
    unknown = [source for source, _ in rows if source not in known]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise DataError(
            f"{len(unknown)} validation images are not among the test images",
            path=path,
            got=shown,
            hint=_WRITE_AGAIN,
        )
    if int(header["images"]) != len(sources):
        raise DataError(
            "a validation split of other test images",
            path=path,
            expected=f"{len(sources)} test images",
            got=header["images"],
            hint=_WRITE_AGAIN,
        )
    try:
        is_validation = validation_split(
            sources,
            defects,
            parts=parts,
            seed=int(header["seed"]),
            share=float(header["share"]),
        )
    except ConfigError as error:
        raise DataError(error.what, path=path, expected=error.expected, got=error.got) from error
    expected = sorted((sources[i], defects[i]) for i in np.flatnonzero(is_validation).tolist())
    if rows != expected or int(header["validation"]) != len(rows):
        wrong = sorted(set(rows) ^ set(expected))
        raise DataError(
            "not the validation split that its rule and seed give",
            path=path,
            expected=f"{len(expected)} images sorted by source",
            got=f"{len(rows)}" + (f", the first that differs {wrong[0][0]}" if wrong else ""),
            hint=_WRITE_AGAIN,
        )
    return is_validation


def _rank(seed: int, source: str) -> bytes:
    text = f"validation|{seed}|{source}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _plain(share: float) -> str:
    return np.format_float_positional(share, trim="-")  # never with an exponent


def _parse(path: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The first line's fields and the (source, defect) rows."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})",
            path=path,
            expected="a validation split",
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise _malformed(path, f"over {_MAX_FILE_BYTES} bytes")
    first, _, rest = data.decode("utf-8", "surrogateescape").partition("\n")
    header = _HEADER.fullmatch(first)
    if header is None:
        raise _malformed(path, f"its first line is {first[:60]!r}")
    try:
        lines = list(csv.reader(io.StringIO(rest, newline=""), strict=True))
    except csv.Error as error:
        raise _malformed(path, str(error)) from error
    if not lines or lines[0] != _COLUMNS:
        raise _malformed(path, f"its second line is not {','.join(_COLUMNS)}")
    for number, line in enumerate(lines[1:], start=3):
        if len(line) != len(_COLUMNS):
            raise _malformed(path, f"row {number} has {len(line)} fields")
    return header.groupdict(), [(source, defect) for source, defect in lines[1:]]


def _malformed(path: Path, reason: str) -> DataError:
    return DataError(
        f"no validation split: {reason}",
        path=path,
        expected="a line of rule, seed and counts, then CSV of source,defect",
    )
