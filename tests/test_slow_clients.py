"""Requests that do not come to an end are cut by time, and stop nobody else meanwhile."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app import connections, limits
from tests.serving import KEY, served


@pytest.fixture(scope="module")
def shared(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all of these, with half a second of patience."""
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", 0.5)
        patch.setattr(limits, "BODY_SECONDS", 0.5)
        with served(f"sqlite:///{folder / 'lrtune.db'}", data_dir=folder / "data") as client:
            yield client


def connected(service: httpx.Client) -> socket.socket:
    address = urlsplit(str(service.base_url))
    return socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=30)


def is_cut(one: socket.socket) -> bool:
    """Whether the server ends this connection; what it has not read by then makes the end a reset."""
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=len)
def test_heads_that_do_not_come_to_an_end_are_cut_and_stop_nobody_else(shared: httpx.Client, sent: bytes) -> None:
    slow = [connected(shared) for _ in range(300)]
    for one in slow:
        with contextlib.suppress(ConnectionError):  # already cut, where connecting them all took that long
            one.sendall(sent)
    assert shared.get("/healthz").status_code == 200, "others are served meanwhile"
    assert all(is_cut(one) for one in slow)
    for one in slow:
        one.close()
    assert shared.get("/healthz").status_code == 200


def test_a_second_head_is_cut_as_the_first_is(shared: httpx.Client) -> None:
    with connected(shared) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        said = b""
        while part := slow.recv(4096):
            said += part
    assert said.startswith(b"HTTP/1.1 200 ")


def test_who_asks_every_few_seconds_keeps_its_connection(sqlite_url: str) -> None:
    """Uvicorn closes what is idle for five seconds: who polled every five met one that was being closed."""
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(sqlite_url, keep_alive=0) as service, connected(service) as client:
        for _ in range(2):
            client.sendall(request)
            said = b""
            while not said.endswith(b"}"):
                part = client.recv(4096)
                assert part, "the connection was closed"
                said += part
            assert said.startswith(b"HTTP/1.1 200 ")


def test_a_body_that_does_not_come_to_an_end_is_refused(shared: httpx.Client) -> None:
    with connected(shared) as slow:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        said = b""
        while part := slow.recv(4096):
            said += part
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/too-slow" in said
