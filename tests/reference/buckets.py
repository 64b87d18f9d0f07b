"""An S3-compatible server."""

import contextlib
import uuid

import fsspec
import pytest


@contextlib.contextmanager
def s3_bucket(monkeypatch, *, address="127.0.0.1"):
    """URL of an empty bucket at an address of this machine, with fsspec told where it is."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"key": "testing", "secret": "testing", "endpoint_url": f"http://{host}:{port}"}
        monkeypatch.setitem(fsspec.config.conf, "s3", settings)
        # All servers of a process share their buckets.
        name = f"sets-{uuid.uuid4()}"
        s3fs.S3FileSystem(**settings).mkdir(name)
        yield f"s3://{name}"
    finally:
        server.stop()
