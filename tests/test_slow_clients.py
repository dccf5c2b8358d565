"""Requests that do not come to an end are cut by time, and stop nobody else meanwhile."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

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


class Hand(asyncio.SelectorEventLoop):
    """An event loop whose clock is moved by hand."""

    now = 0.0

    def time(self) -> float:
        """The moment that it was moved to."""
        return self.now

    async def move(self, moment: float) -> None:
        """Let this moment come, and all happen that is due then."""
        self.now = moment
        for _ in range(20):
            await asyncio.sleep(0)


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("kind", [HttpToolsProtocol, H11Protocol])
def test_the_head_of_a_kept_connection_has_its_time_from_when_it_begins(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was idle a moment before the second look was closed at it, with a head that had just begun."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 10.0)
    connections.install()
    loop, transport = Hand(), Mock(**{"is_closing.return_value": False})
    config = uvicorn.Config(answers, log_config=None, lifespan="off")
    config.load()
    protocol = kind(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    transport.get_protocol.return_value = protocol

    async def lives() -> None:
        protocol.connection_made(transport)
        await loop.move(9.9)
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await loop.move(10.0)
        assert transport.write.call_args.args[0].startswith(b"HTTP/1.1 200 ")
        await loop.move(19.8)
        protocol.data_received(b"GET / HT")
        await loop.move(20.0)
        await loop.move(29.7)
        transport.close.assert_not_called()
        await loop.move(30.1)
        transport.close.assert_called_once()

    with contextlib.closing(loop):
        loop.run_until_complete(lives())


def test_a_body_that_does_not_come_to_an_end_is_refused(shared: httpx.Client) -> None:
    with connected(shared) as slow:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        said = b""
        while part := slow.recv(4096):
            said += part
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/too-slow" in said
