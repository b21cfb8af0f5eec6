"""A real S3 server of this machine, and a proxy to it on which requests get lost."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import pytest

SECRET = "a-secret-that-no-log-may-hold"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def server() -> Iterator[str]:
    """Run a server and give its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    try:
        yield "http://{}:{}".format(*running.get_host_and_port())
    finally:
        running.stop()


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Set an environment that gives access to a server."""
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def make_bucket(address: str, name: str) -> str:
    """Make an empty bucket and return its URL."""
    request(address, "PUT", f"/{name}")
    return f"s3://{name}"


def request(address: str, method: str, path: str) -> None:
    connection = HTTPConnection(address.removeprefix("http://"))
    connection.request(method, path)
    assert connection.getresponse().status < 300
    connection.close()


@dataclass
class Faults:
    """How often, of all requests, one fails, and what happened."""

    errors: float = 0.0
    """Answered with status 500."""
    silences: float = 0.0
    """Closed without an answer, after the server has done what was asked."""
    bytes_per_second: float = float("inf")
    refusal: tuple[int, str] | None = None
    """The status and code with which everything is refused."""
    happened: dict[str, int] = field(default_factory=lambda: {"error": 0, "silence": 0, "fine": 0})


@contextmanager
def faulty_proxy(address: str, faults: Faults) -> Iterator[str]:
    """Give the address of a proxy in front of a server, which loses and delays what it carries."""
    chance = random.Random(0)
    server = address.removeprefix("http://")

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def carry(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if faults.refusal:
                status, code = faults.refusal
                self.answer(status, f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode())
                return
            draw = chance.random()
            if draw < faults.errors:
                faults.happened["error"] += 1
                self.answer(500, b"")
                return
            there = HTTPConnection(server)
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            content = answer.read()
            there.close()
            time.sleep((len(body) + len(content)) / faults.bytes_per_second)
            if draw < faults.errors + faults.silences:
                faults.happened["silence"] += 1
                self.close_connection = True
                return
            faults.happened["fine"] += 1
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (
                    "content-length",
                    "connection",
                    "transfer-encoding",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", size or "0")
            self.end_headers()
            self.wfile.write(content)

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = carry  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield "http://{}:{}".format(*proxy.server_address)
    finally:
        proxy.shutdown()
        proxy.server_close()
