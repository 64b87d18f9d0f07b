"""Lists of images: CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.bounded_file import read_bounded
from manifests.errors import DataError

MAX_LIST_BYTES = 256 << 20
_MAX_TEXT = 4096  # characters of one value: longer than any path


class Row(dict[str, str]):
    """A row's values by column, stripped; an absent value is "".

    Args:
        line: in the file, counted from 1; of a Parquet list, the row.
    """

    def __init__(self, values: dict[str, str], line: int) -> None:
        super().__init__(values)
        self.line = line


def read_table(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a list, with these columns only; blank rows are passed over.

    CSV is UTF-8 with a header, separated by commas, semicolons or tabs, whichever the header has.

    Raises:
        DataError: it cannot be read, is larger than `MAX_LIST_BYTES`, is no such file, lacks a
            required column or holds a value of more than 4,096 characters; pyarrow is missing.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    rows: Iterator[tuple[int, Sequence[object]]] = (
        _parquet_rows(path) if is_parquet else _csv_rows(path)
    )
    header = next(rows)[1]
    columns = [str(name or "").strip().lower() for name in header]
    missing = [name for name in required if name not in columns]
    twice = [name for name in (*required, *optional) if columns.count(name) > 1]
    if missing or twice:
        raise DataError(
            f"the list has {'two columns' if twice else 'no column'} {(twice or missing)[0]!r}",
            path=path,
            expected=f"a header with {', '.join((*required, *optional))}",
            got=", ".join(columns)[:200] or "nothing",
        )
    places = {name: columns.index(name) for name in (*required, *optional) if name in columns}
    for line, values in rows:
        texts = ["" if value is None else str(value).strip() for value in values]
        if not any(texts):
            continue
        found = dict.fromkeys((*required, *optional), "")
        found |= {name: texts[at] for name, at in places.items() if at < len(texts)}
        if max(map(len, found.values())) > _MAX_TEXT:
            raise DataError(f"line {line}: a value of over {_MAX_TEXT} characters", path=path)
        yield Row(found, line)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        # Links are resolved: it is the user's own list, and may lie anywhere.
        data = read_bounded(path.resolve(), MAX_LIST_BYTES, error=DataError)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("no such file", path=path, hint="check the path") from None
    except UnicodeDecodeError:
        raise DataError(
            "not a UTF-8 text file", path=path, hint="save the list as CSV in UTF-8"
        ) from None
    told, _, rest = text.partition("\n")
    is_told = told.strip().lower() in ("sep=,", "sep=;", "sep=")  # for Excel; the last for a tab
    if is_told:
        text = rest
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    has_rows = False
    try:
        for values in reader:
            has_rows = True
            yield reader.line_num + is_told, values
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} is not CSV: {error}", path=path) from error
    if not has_rows:
        raise DataError("the list is empty", path=path)


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[object]]]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError:
        raise DataError(
            "Parquet lists need pyarrow, which is not installed",
            path=path,
            hint="pip install 'cutswap[parquet]', or save the list as CSV",
        ) from None
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError("is too large", path=path, expected=f"at most {MAX_LIST_BYTES} bytes")
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            yield 0, list(names)
            line = 0
            for batch in file.iter_batches():
                # By place and not by name: `to_pylist` would keep one of two columns of a name.
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    line += 1
                    yield line, list(values)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"not a Parquet file that can be read: {str(error)[:200]}", path=path
        ) from error
