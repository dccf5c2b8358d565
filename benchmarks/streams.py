"""What open event streams cost while nothing happens: `python -m benchmarks.streams`.

Starts a server, opens streams of many jobs' logs (a thousand of a hundred jobs, unless said otherwise), and prints the
CPU seconds that the server has taken for each second in which nothing happened, on SQLite and on PostgreSQL, whose own
processes are counted with it.
"""

import argparse
import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

import migrations
from benchmarks.growth import postgresql

KEY = "the-key-of-the-benchmark"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> float:
    """What a process has taken so far, in user and in system mode; 0 for one that is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def family(parent: int) -> list[int]:
    """A process and its children: PostgreSQL has one for each connection."""
    found = [parent]
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((one / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(one.name))
    return found


async def opened(port: int, job: str) -> asyncio.StreamReader:
    """A stream that has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
    await reader.readuntil(b"event: job-submitted")
    reader.writer = writer  # type: ignore[attr-defined]  # or the connection is closed
    return reader


async def measured(processes: list[int], port: int, jobs: list[str], count: int, seconds: float) -> float:
    """Cores that are busy while this many streams are open and nothing happens."""
    streams = []
    for start in range(0, count, 50):
        streams += await asyncio.gather(
            *(opened(port, jobs[n % len(jobs)]) for n in range(start, min(start + 50, count)))
        )
    await asyncio.sleep(3)
    watched = [one for parent in processes for one in family(parent)]
    before, began = sum(map(cpu_seconds, watched)), time.monotonic()
    await asyncio.sleep(seconds)
    busy = (sum(map(cpu_seconds, watched)) - before) / (time.monotonic() - began)
    assert not any(stream.at_eof() for stream in streams)
    return busy


def served(url: str, beside: list[int], jobs: int, streams: int, seconds: float) -> float:
    """The same on a database, in a server of its own process; those `beside` it count as well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"LRTUNE_DATABASE_URL": url, "LRTUNE_API_KEY": KEY, "LRTUNE_CREDENTIALS": f"{folder}/key"}
        command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
        command += ["--log-level", "warning"]
        server = subprocess.Popen(command, env=os.environ | settings)
        try:
            transport = httpx.HTTPTransport(retries=8)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60) as client:
                key = {"Authorization": f"Bearer {KEY}"}
                asked = {"task": "digits"}
                ids = [client.post("/v1/jobs", json=asked, headers=key).json()["id"] for _ in range(jobs)]
            return asyncio.run(measured([server.pid, *beside], port, ids, streams, seconds))
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {given.seconds:g} s each")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/lrtune.db"
        for count in (1, given.streams):
            busy = served(url, [], given.jobs, count, given.seconds)
            print(f"SQLite, {count} streams of {given.jobs} jobs: {busy:.4f} cores", flush=True)
        with postgresql(str(Path(folder) / "server")) as url:
            migrations.upgrade(url)
            (pid,) = (one.read_text().splitlines()[0] for one in Path(folder).rglob("postmaster.pid"))
            for count in (1, given.streams):
                busy = served(url, [int(pid)], given.jobs, count, given.seconds)
                print(f"PostgreSQL, {count} streams of {given.jobs} jobs: {busy:.4f} cores", flush=True)


if __name__ == "__main__":
    main()
