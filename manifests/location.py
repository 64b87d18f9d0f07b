"""A file or folder behind a URL: read, listed and written through fsspec.

With `http_reader`, the only module that knows fsspec, which is imported when it is first needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from manifests.errors import ConfigError, CutswapError, SetError
from manifests.http_reader import HttpReader
from manifests.url import HTTP, below, redacted, scheme, secrets

# Beside the file systems of asyncio, the ones that several threads may use at once.
_THREAD_SAFE = ("file", "local", "memory", "hf")
# Where a file is there as a whole or not at all, so that it needs no temporary name; none of these
# knows folders either.
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "memory")
_LOCAL = ("file", "local")
_PACKAGES = {"s3": "cutswap[s3]", "s3a": "cutswap[s3]", **dict.fromkeys(HTTP, "fsspec[http]")}
_FINAL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
)
_PASSING_STATUS = (408, 425, 429)
_UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
_MAX_LISTING_BYTES = 1 << 20
LISTING_S = 60.0
"""Time in which a server's list of a folder must be there."""
_LINK = re.compile(rb"""<a\s[^>]{0,999}?href\s*=\s*["']?([^"'\s>]{1,2048})""", re.IGNORECASE)


class RemoteError(SetError):
    """What lies behind a URL cannot be reached, or does not do what is asked of it.

    Attributes:
        is_passing: another try may have more luck.
        is_missing: the file is not there.
        is_unreachable: nobody answers at that address.
    """

    is_passing = False
    is_missing = False
    is_unreachable = False


class Reader(Protocol):
    """Bytes from `offset` on, which may be 0 where another one was asked for."""

    offset: int

    def read(self, n: int) -> bytes: ...


class Location:
    """A file or a folder behind a URL. Use `Location.of`.

    What its methods raise is a `RemoteError` or a `ConfigError`, without passwords.

    Attributes:
        name: the URL as it may be shown.
        scheme: its protocol, such as "s3".
    """

    def __init__(self, url: str, protocol: str, fs: Any, path: str) -> None:
        self.name = redacted(url)
        self.scheme = protocol
        self._url, self._fs, self._path = url, fs, path

    @classmethod
    def of(cls, url: str) -> Location:
        """The location of a URL.

        Raises:
            ConfigError: malformed, of an unknown protocol, or of one whose package is missing.
        """
        protocol = scheme(url)
        try:
            import fsspec

            # HTTP paths are whole URLs. fsspec would take :: in them, as in [::1], for a chain.
            if protocol in HTTP:
                return cls(url, protocol, fsspec.filesystem(protocol), url)
            fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            raise ConfigError(
                f"{protocol}:// needs a package that is not installed",
                path=redacted(url),
                hint=f'pip install "{package}"' if package else _explained(error, url),
            ) from None
        except ValueError as error:
            raise ConfigError(_explained(error, url), path=redacted(url)) from None
        except Exception as error:
            raise _remote_error(error, url) from None
        return cls(url, protocol, fs, path)

    def child(self, name: str) -> Location:
        """The location of `name` in this folder."""
        url = below(self._url, name)
        path = url if self.scheme in HTTP else f"{self._path.rstrip('/')}/{name}"
        return Location(url, self.scheme, self._fs, path)

    @property
    def url(self) -> str:
        """The URL itself, with its secrets."""
        return self._url

    @property
    def is_writable(self) -> bool:
        """Whether files can be written there at all."""
        return self.scheme not in HTTP

    @property
    def has_threads(self) -> bool:
        """Whether several threads may work there at once."""
        return self.scheme in _THREAD_SAFE or getattr(self._fs, "async_impl", False)

    @contextlib.contextmanager
    def open_at(self, offset: int, *, end: int | None = None) -> Iterator[Reader]:
        """The file's bytes from `offset` on, or from 0 where the protocol has no ranges.

        Args:
            end: where the caller will stop reading, None where it does not know.
        """
        reader: HttpReader | _FileReader
        with self._errors():
            if self.scheme in HTTP:
                reader = HttpReader(self._fs, self._url, offset, end=end)
            else:
                reader = _FileReader(self._fs, self._path, offset)
        with reader:
            # A reader's own errors, but not those of the block that uses it.
            yield _Translated(reader, self)

    def size(self) -> int | None:
        """Size of the file in bytes, None where it is not there."""
        try:
            with self._errors():
                self._fs.invalidate_cache()
                size: int | None = self._fs.info(self._path)["size"]
                return size
        except RemoteError as error:
            if error.is_missing:
                return None
            raise

    def names(self) -> list[str]:
        """What lies directly in the folder, sorted; empty where it is not there.

        Raises:
            RemoteError: the server does not list it.
        """
        try:
            if self.scheme in HTTP:
                return self._linked_names()
            with self._errors():
                self._fs.invalidate_cache()
                rows = self._fs.ls(self._path, detail=False)
        except RemoteError as error:
            if error.is_missing:
                return []
            raise
        return sorted({row.rstrip("/").rsplit("/", 1)[-1] for row in rows})

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file that lies directly in the folder; empty without one.

        Raises:
            RemoteError: the server does not list it.
        """
        try:
            with self._errors():
                self._fs.invalidate_cache()
                rows = self._fs.ls(self._path, detail=True)
        except RemoteError as error:
            if error.is_missing:
                return {}
            raise
        files = [row for row in rows if row["type"] == "file"]
        return {row["name"].rsplit("/", 1)[-1]: row["size"] for row in files}

    def put(self, file: Path) -> None:
        """Upload a file; it is there as a whole or not at all, under this location's name."""
        with self._errors():
            if self.scheme in _OBJECT_STORES:
                self._fs.put_file(str(file), self._path)
                return
            folder, _, name = self._path.rpartition("/")
            # Of digits, as everywhere, but another one on every machine.
            temporary = f"{folder}/.{name}.tmp-{uuid.uuid4().int}"
            self._fs.makedirs(folder, exist_ok=True)
            try:
                self._fs.put_file(str(file), temporary)
                if self.scheme in _LOCAL:
                    with open(temporary, "rb+") as written:
                        os.fsync(written.fileno())
                self._fs.mv(temporary, self._path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(temporary)
                raise

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CutswapError:
            raise
        except Exception as error:
            # Every protocol has errors of its own, so there is no list of them.
            raise _remote_error(error, self._url) from None

    def _linked_names(self) -> list[str]:
        """The links of an HTTP server's listing that lead to something directly below."""
        base = below(self._url, "")
        data = b""
        deadline = time.monotonic() + LISTING_S
        with Location(base, self.scheme, self._fs, base).open_at(0) as reader:
            while len(data) < _MAX_LISTING_BYTES and (piece := reader.read(1 << 16)):
                data += piece
                if time.monotonic() > deadline:
                    raise RemoteError(
                        "its list does not come in time",
                        path=self.name,
                        expected=f"within {LISTING_S:g} s",
                        got=f"{len(data)} bytes",
                    )
        found = set()
        folder = urlsplit(base)
        for link in _LINK.findall(data):
            with contextlib.suppress(ValueError):
                parts = urlsplit(urljoin(base, link.decode("ascii", "replace")))
                inside = parts.path.removeprefix(folder.path)
                if parts.netloc == folder.netloc and inside != parts.path:
                    found.add(inside.rstrip("/"))
        return sorted(name for name in found if name and "/" not in name)


class _FileReader:
    """A file that can be read at any place, without a cache: every byte is asked for once."""

    def __init__(self, fs: Any, path: str, offset: int) -> None:
        self.offset = offset
        self._file = fs.open(path, "rb", cache_type="none")
        self._file.seek(offset)

    def __enter__(self) -> _FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._file.close()

    def read(self, n: int) -> bytes:
        data: bytes = self._file.read(n)
        return data


class _Translated:
    """A reader whose errors are the location's."""

    def __init__(self, reader: Reader, location: Location) -> None:
        self.offset = reader.offset
        self._reader, self._location = reader, location

    def read(self, n: int) -> bytes:
        with self._location._errors():
            return self._reader.read(n)


def _remote_error(error: Exception, url: str) -> RemoteError:
    """What an error of any protocol means to a user, and whether to try again."""
    status = getattr(error, "status", None)
    kind = type(error).__name__
    name = redacted(url)
    if isinstance(error, FileNotFoundError):
        found = RemoteError("there is no such file", path=name)
        found.is_missing = True
        return found
    if isinstance(error, PermissionError) or status in (401, 403, 407) or "Credential" in kind:
        return RemoteError(
            "access is refused",
            path=name,
            got=_explained(error, url),
            hint="give credentials in the way fsspec takes them for this protocol",
        )
    if isinstance(error, NotImplementedError):
        return RemoteError("cannot be done with this protocol", path=name)
    # aiohttp and botocore wrap what the system says of the connection.
    cause = getattr(error, "os_error", error)
    if (
        isinstance(cause, socket.gaierror)
        or getattr(cause, "errno", None) in _UNREACHABLE
        or kind == "EndpointConnectionError"
    ):
        found = RemoteError(
            "the server cannot be reached",
            path=name,
            got=_explained(error, url),
            hint="check the URL and the network, and whether the server runs",
        )
        found.is_passing = found.is_unreachable = True
        return found
    if isinstance(error, ValueError | TypeError | AttributeError):
        is_passing = False  # malformed addresses, and certificates that do not hold
    elif isinstance(status, int) and status >= 400:
        is_passing = status >= 500 or status in _PASSING_STATUS
    else:
        is_passing = not isinstance(error, OSError) or error.errno not in _FINAL
    found = RemoteError("cannot be transferred", path=name, got=_explained(error, url))
    found.is_passing = is_passing
    return found


def _explained(error: Exception, url: str) -> str:
    """An error in a few words, without secrets."""
    if type(error).__name__ in ("FSTimeoutError", "TimeoutError", "SocketTimeoutError"):
        return "no answer in time"
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    text = f"{status} {message}" if isinstance(status, int) and message else str(error)
    text = redacted(" ".join(text.split()) or type(error).__name__)
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
