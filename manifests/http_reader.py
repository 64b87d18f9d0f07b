"""One HTTP answer, read as it arrives, from a byte that the server may or may not agree to."""

from __future__ import annotations

import asyncio
import re
from typing import Any

CONNECT_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 60.0
"""Silence after which a connection counts as cut."""
ANSWER_TIMEOUT_S = 90.0
"""Time for an answer to begin: its headers may come drop by drop, which no silence interrupts."""
HAND_ON_S = 1.0
"""Longest that bytes which have arrived are kept back to be handed on together with more."""

_PIECE_BYTES = 256 << 10
_OK, _PARTIAL, _NOT_FOUND, _NOTHING_THERE = 200, 206, 404, 416


class HttpReader:
    """The bytes behind a URL, through the session of fsspec's file system.

    fsspec's own files either fetch blocks of a size they must ask for first, or cannot tell
    whether the server took notice of a range.

    Args:
        fs: an `fsspec.implementations.http.HTTPFileSystem`.
        url: of the file.
        offset: first byte that is wanted.
        end: byte before which reading stops, None where nobody knows it: a server that promises
            more than it sends must not be waited for.

    Attributes:
        offset: first byte that `read` gives: 0 where the server does not serve ranges.

    Raises:
        FileNotFoundError: the server has no such file.
        Exception: aiohttp's, for other answers and for connections that fail.
    """

    def __init__(self, fs: Any, url: str, offset: int, *, end: int | None = None) -> None:
        from fsspec.asyn import sync

        self._fs, self._url, self._sync = fs, url, sync
        self._end = end
        self.offset = offset
        self._error: Exception | None = None
        self._first: bytes
        self._response, self._first = sync(fs.loop, self._begin)

    def __enter__(self) -> HttpReader:
        return self

    def __exit__(self, *_: object) -> None:
        # Not read to the end, so the connection is of no further use.
        self._fs.loop.call_soon_threadsafe(self._response.close)

    def read(self, n: int) -> bytes:
        """At least one byte and at most `n`; none at the end.

        What is there is handed on within `HAND_ON_S`, so that the caller sees how slow it comes.
        """
        if self._first:
            data, self._first = self._first[:n], self._first[n:]
            return data
        if self._response.status == _NOTHING_THERE:
            return b""
        more: bytes = self._sync(self._fs.loop, self._read, self._response, n)
        return more

    async def _begin(self) -> tuple[Any, bytes]:
        # aiohttp drops what nobody has read yet when the connection is cut, so a cut early in the
        # file would leave nothing if the reading began only when the caller comes to it.
        response = await self._get()
        if response.status == _NOTHING_THERE:
            return response, b""
        wanted = _PIECE_BYTES if self._end is None else max(0, self._end - self.offset)
        return response, await self._read(response, min(wanted, _PIECE_BYTES))

    async def _read(self, response: Any, n: int) -> bytes:
        if self._error is not None:
            raise self._error
        data, wanted = b"", min(n, _PIECE_BYTES)
        limit = None
        try:
            more = data = await response.content.read(wanted)
            async with asyncio.timeout(HAND_ON_S) as limit:
                while more and len(data) < wanted:
                    more = await response.content.read(wanted - len(data))
                    data += more
        except Exception as error:
            if not data:
                raise
            if limit is None or not limit.expired():
                self._error = error  # for the next call; what came before it is good
        return data

    async def _get(self) -> Any:
        import aiohttp

        options = dict(self._fs.kwargs)
        # Bytes of a compressed answer could not be counted from an offset.
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
        options.setdefault(
            "timeout",
            aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            ),
        )
        session = await self._fs.set_session()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            response = await session.get(self._fs.encode_url(self._url), headers=headers, **options)
        try:
            return self._checked(response)
        except BaseException:
            response.close()
            raise

    def _checked(self, response: Any) -> Any:
        if response.status == _NOT_FOUND:
            raise FileNotFoundError(self._url)
        if response.status == _NOTHING_THERE and self.offset:
            return response
        response.raise_for_status()
        if response.status == _PARTIAL:
            named = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            is_plain = response.headers.get("Content-Encoding", "identity") == "identity"
            if named is None or int(named[1]) != self.offset or not is_plain:
                raise ConnectionError("the server answers with another range than it was asked for")
        elif response.status == _OK:
            self.offset = 0
        else:
            raise ConnectionError(f"the server answers {response.status} and sends no file")
        return response
