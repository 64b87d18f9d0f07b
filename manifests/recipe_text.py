"""A recipe's container: one title line, then gzipped lines, read without trusting a byte of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.atomic import atomic_file
from manifests.errors import DigestError, SetError
from manifests.manifest_json import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TITLE = "cutswap-recipe"
RECIPE_VERSION = 1
MAX_FILE_BYTES = 1 << 30
MAX_LINE_BYTES = 16 << 20
# The first line is the manifest, which names every training file.
MAX_FIRST_LINE_BYTES = MAX_MANIFEST_BYTES
# Recipes unfold to 2 to 8 times their size, because half of their text is digests, which do not
# shrink. Zlib alone would let a file unfold to a thousand times its own, and every row takes time.
MAX_UNFOLDING = 16
SPARE_TEXT_BYTES = 1 << 20

_TITLE_LINE = re.compile(rb"cutswap-recipe ([1-9][0-9]{0,8}) ([0-9a-f]{64})\n")
_TITLE_BYTES = len(TITLE) + 1 + 1 + 1 + 64 + 1
_PRINTABLE = bytes(range(32, 127)) + b"\n"
_BLOCK_BYTES = 1 << 18
_UNFOLDED_BLOCK_BYTES = 1 << 20
_DAMAGED = "fetch it again, or export it again"


def write_lines(
    path: Path, lines: Iterable[bytes], *, check: Callable[[Path], None]
) -> tuple[int, int]:
    """Write a recipe file as a whole or not at all. The same lines give the same bytes.

    Args:
        path: the file; an existing one is replaced.
        lines: ASCII, without the newline at their ends.
        check: reads what was written, under a temporary name; what it raises keeps the file from
            getting its own.

    Returns:
        Bytes of the file and of the text in it.

    Raises:
        OutputError: the file cannot be written.
        SetError: a line, or all of them, longer than `RecipeFile` would read.
        Whatever `lines` and `check` raise.
    """
    text_bytes = 0
    with atomic_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(_title_line("0" * 64))
            body = _HashedFile(file)
            # Level 9, no name and no time: what differs between two machines is zlib alone.
            with gzip.GzipFile("", "wb", 9, body, mtime=0) as stream:
                for number, line in enumerate(lines):
                    if len(line) > (limit := _max_line_bytes(number)):
                        raise SetError(
                            "a row is too large for a recipe",
                            path=path,
                            expected=f"at most {limit} bytes",
                            got=len(line),
                            hint="share the set itself",
                        )
                    text_bytes += stream.write(line + b"\n")
            file.seek(0)
            file.write(_title_line(body.hasher.hexdigest()))
        file_bytes = temporary.stat().st_size
        if file_bytes > MAX_FILE_BYTES or text_bytes > _max_text_bytes(file_bytes):
            raise SetError(
                "the set is too large for one recipe",
                path=path,
                expected=f"at most {MAX_FILE_BYTES} bytes, of {MAX_UNFOLDING} times as much text",
                got=f"{file_bytes} bytes, {text_bytes} of text",
                hint="export parts of it (cutswap-gen subset)",
            )
        check(temporary)
    return file_bytes, text_bytes


def is_recipe_file(path: Path) -> bool:
    """Whether a file begins as recipes do, of whatever version and however damaged."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return file.read(len(TITLE) + 1) == f"{TITLE} ".encode("ascii")
    except OSError:
        return False


class RecipeFile:
    """A recipe file open for reading; use it in a `with` block.

    Raises:
        SetError: there is no such file, it is not a recipe, too large, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            # Looked at before it is opened: opening a named pipe would wait for ever.
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise SetError("is not a file", path=self.path, expected="a recipe file")
            self._file = open(self.path, "rb")  # noqa: SIM115 (closed by __exit__)
        except FileNotFoundError:
            raise SetError("there is no such file", path=self.path) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise self._unreadable(error) from error
        self.file_bytes = status.st_size
        try:
            if self.file_bytes > MAX_FILE_BYTES:
                raise SetError(
                    "is too large for a recipe",
                    path=self.path,
                    expected=f"at most {MAX_FILE_BYTES} bytes",
                    got=self.file_bytes,
                )
            self._recorded = self._read_title()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RecipeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def digest_problem(self) -> DigestError | None:
        """What is wrong with the bytes after the title line, by the digest in it."""
        try:
            self._file.seek(_TITLE_BYTES)
            got = hashlib.file_digest(self._file, "sha256").hexdigest()
        except OSError as error:
            raise self._unreadable(error) from error
        if got == self._recorded:
            return None
        return DigestError(
            "is damaged: its bytes are not those its first line names",
            path=self.path,
            expected=self._recorded,
            got=got,
            hint=_DAMAGED,
        )

    def lines(self) -> Iterator[bytes]:
        """The lines of the text, printable ASCII, without their newlines.

        However far the file unfolds, no more than a line and a block are in memory.

        Raises:
            SetError: not one whole gzip member, a line or the whole text too long, a character
                that is not printable ASCII, or no newline at the end.
        """
        rest = b""
        count = 0
        for block in self._unfolded():
            # A dump goes to a terminal, which must not be told anything by a stranger.
            if block.translate(None, _PRINTABLE):
                raise self._malformed("has a character that is not printable ASCII")
            *whole, rest = (rest + block).split(b"\n")
            for number, line in enumerate((*whole, rest), start=count):
                if len(line) > (limit := _max_line_bytes(number)):
                    raise self._malformed(f"has a line of more than {limit} bytes")
            count += len(whole)
            yield from whole
        if rest:
            raise self._malformed("ends within a line")

    def _unfolded(self) -> Iterator[bytes]:
        unfolder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        budget = _max_text_bytes(self.file_bytes)
        try:
            self._file.seek(_TITLE_BYTES)
            while not unfolder.eof:
                folded = unfolder.unconsumed_tail or self._file.read(_BLOCK_BYTES)
                if not folded:
                    raise self._malformed("ends early")
                block = unfolder.decompress(folded, _UNFOLDED_BLOCK_BYTES)
                budget -= len(block)
                if budget < 0:
                    raise self._malformed(f"unfolds to more than {MAX_UNFOLDING} times its size")
                yield block
            if unfolder.unused_data or self._file.read(1):
                raise self._malformed("has bytes behind its end")
        except zlib.error as error:
            raise self._malformed(f"is no gzip data ({error})") from None
        except OSError as error:
            raise self._unreadable(error) from error

    def _read_title(self) -> str:
        try:
            title = self._file.read(_TITLE_BYTES + 16)
        except OSError as error:
            raise self._unreadable(error) from error
        match = _TITLE_LINE.match(title)
        if match is None:
            raise SetError(
                "is not a recipe",
                path=self.path,
                expected=f"a first line '{TITLE} {RECIPE_VERSION} <sha256>'",
                got=ascii(title[:24]) if title else "an empty file",
                hint="make one with cutswap-gen export-recipe",
            )
        version = int(match[1])
        if version > RECIPE_VERSION:
            raise SetError(
                "was written by a newer cutswap",
                path=self.path,
                expected=f"recipe version {RECIPE_VERSION}",
                got=version,
                hint="upgrade cutswap to read it",
            )
        return match[2].decode("ascii")

    def _malformed(self, what: str) -> SetError:
        return SetError(what, path=self.path, hint=_DAMAGED)

    def _unreadable(self, error: Exception) -> SetError:
        return SetError(f"cannot be read ({getattr(error, 'strerror', error)})", path=self.path)


class _HashedFile(io.RawIOBase):
    """Passes bytes on to a file and takes their SHA-256."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file = file
        self.hasher = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        self.hasher.update(data)
        return self.file.write(data)


def _max_line_bytes(number: int) -> int:
    return MAX_LINE_BYTES if number else MAX_FIRST_LINE_BYTES


def _title_line(digest: str) -> bytes:
    return f"{TITLE} {RECIPE_VERSION} {digest}\n".encode("ascii")


def _max_text_bytes(file_bytes: int) -> int:
    return MAX_UNFOLDING * file_bytes + SPARE_TEXT_BYTES
