"""HTTP servers on loopback that behave, and ones that do not."""

import contextlib
import http.server
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Args:
        status: None for what the request calls for.
        cut_after: bytes of the body after which the connection is closed.
        flip_at: byte of the file with one wrong bit.
        endless: zeros follow the body for as long as somebody reads.
        claimed: value of Content-Length; "none" leaves it out.
        hang: the connection stays open after the body.
        wrong_range: ranges are answered from the byte after.
        drip_s: the body comes byte by byte, with so many seconds between.
    """

    status: int | None = None
    cut_after: int | None = None
    flip_at: int | None = None
    endless: bool = False
    claimed: int | str | None = None
    hang: bool = False
    wrong_range: bool = False
    drip_s: float | None = None


@dataclass
class Request:
    """One request that was made: `start` is None without a Range header."""

    name: str
    start: int | None
    number: int
    status: int = 0
    sent: int = 0
    authorization: str | None = None


@dataclass
class Served:
    """A running server.

    Attributes:
        url: of its folder.
        requests: in the order in which they came.
        together: most that were answered at the same time.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    together: int = 0
    active: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, name):
        return [request for request in self.requests if request.name == name]

    def shards(self):
        return [request for request in self.requests if request.name.endswith(".h5")]


@contextlib.contextmanager
def file_server(folder: Path, behave=None, *, ranges=True, password=None, meeting=None):
    """Serves the files of a folder.

    Args:
        behave: from a `Request` to an `Answer`.
        ranges: whether Range headers count.
        password: "user:password" in base64, demanded of every request.
        meeting: a `threading.Barrier` at which requests for shards wait for each other.
    """
    served = Served("")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.split("?")[0].strip("/")
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else None
            with served.lock:
                request = Request(name, start, len(served.of(name)))
                request.authorization = self.headers.get("Authorization")
                served.requests.append(request)
                served.active += 1
                served.together = max(served.together, served.active)
            try:
                if meeting is not None and name.endswith(".h5"):
                    with contextlib.suppress(threading.BrokenBarrierError):
                        meeting.wait(30)
                self._answer(request, behave(request) if behave else Answer())
            except OSError:
                self.close_connection = True
            finally:
                with served.lock:
                    served.active -= 1

        def _answer(self, request, answer):
            path = folder / request.name
            status = answer.status or (200 if path.is_file() else 404)
            if password and request.authorization != f"Basic {password}":
                status = 401
            if status not in (200, 206):
                request.status = status
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data, start = bytearray(path.read_bytes()), 0
            if answer.flip_at is not None:
                data[answer.flip_at % len(data)] ^= 4
            total = len(data)
            if ranges and request.start is not None:
                start, status = request.start, 206
                if start >= total:
                    request.status = 416
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start += answer.wrong_range
            request.status = status
            body = bytes(data[start:])
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if answer.claimed != "none" and not answer.endless:
                self.send_header("Content-Length", str(answer.claimed or len(body)))
            else:
                self.close_connection = True
            self.end_headers()
            if isinstance(answer.claimed, int):
                body = body[: answer.claimed]
            part = body[: answer.cut_after]
            if answer.drip_s is not None:
                for place in range(len(part)):
                    self.wfile.write(part[place : place + 1])
                    request.sent += 1
                    time.sleep(answer.drip_s)
            else:
                self.wfile.write(part)
                request.sent = len(part)
            while answer.endless:
                self.wfile.write(bytes(1 << 16))
                request.sent += 1 << 16
            if answer.hang:
                time.sleep(4)
            if answer.cut_after is not None or answer.hang:
                self.close_connection = True

    with _running(Handler) as url:
        served.url = url
        yield served


@contextlib.contextmanager
def plain_server(folder: Path):
    """Python's own server: whole files only, and listings of folders. Gives its URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with _running(partial(Handler, directory=str(folder))) as url:
        yield url


@contextlib.contextmanager
def _running(handler):
    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        sockets: ClassVar = []

        def process_request(self, request, client_address):
            self.sockets.append(request)
            super().process_request(request, client_address)

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        for open_socket in Server.sockets:  # or kept-alive connections would be served on
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        thread.join()
