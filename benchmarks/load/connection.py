"""A plain HTTP/1.1 connection that is kept open: so cheap that what is measured is the server."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any


class Seen:
    """The milliseconds of every call by its name, and how many went wrong."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self.errors, self.streamed = Counter[str](), 0


class Connection:
    """One client's."""

    def __init__(self, port: int, key: str, seen: Seen) -> None:
        self._port, self._key, self._seen = port, key, seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, name: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the content of an answer; 0 where none came."""
        began = time.perf_counter()
        sent = b"" if body is None else json.dumps(body).encode()
        try:
            try:
                reader = await self._asked(method, path, sent)
                status, headers = await _head(reader)
            except (ConnectionError, asyncio.IncompleteReadError):  # the server has closed what was idle for seconds
                self.close()
                reader = await self._asked(method, path, sent)
                status, headers = await _head(reader)
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self._seen.errors[f"{name}: {type(error).__name__}"] += 1
            self.close()
            return 0, None
        self._seen.times[name].append((time.perf_counter() - began) * 1000)
        if status >= 400:
            self._seen.errors[f"{name}: {status}"] += 1
        return status, json.loads(content) if content else None

    async def follow(self, path: str) -> None:
        """Read an event stream for as long as it lasts."""
        with suppress(OSError, asyncio.IncompleteReadError):
            reader = await self._asked("GET", path, b"", "Accept: text/event-stream\r\n")
            await _head(reader)
            while line := await reader.readline():
                self._seen.streamed += line.startswith(b"data:")

    def close(self) -> None:
        """Close it; the next call opens another one."""
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _asked(self, method: str, path: str, content: bytes, more: str = "") -> asyncio.StreamReader:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {self._key}\r\n{more}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        return reader


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines if line)
    return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}
