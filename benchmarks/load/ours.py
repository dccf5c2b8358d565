"""What our server does under load: claims and reports alone, and everything at once."""

import asyncio
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import make_url

import migrations
from benchmarks.growth import SPEC, STEPS, fill
from benchmarks.load.connection import Connection, Seen
from benchmarks.load.measuring import LOOPS, Cpu, summary, value
from lrtune.store import Database, jobs
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import report_points

ROUNDS = 4  # of trials that report: each is over in seconds, and a machine is not the same from one to the next
KEY, LEASE = "the-key-of-the-load", 600.0
POLLERS, STREAMS, DECIDING = 500, 200, 4
REPORT_EVERY, POLL_EVERY = 1.0, 5.0  # seconds between two calls of one client
POINTS = report_points(STEPS)


def measured(
    url: str, *, history: int, seconds: float, servers: list[psutil.Process], processes: int = 1
) -> dict[str, Any]:
    """Claims, then reports, as fast as they go, then the whole load; `servers` are the database's processes."""
    migrations.upgrade(url)
    database = Database(url)
    job = fill(database, history)
    with database.write() as tx:
        # The default search, which thinks before each trial.
        spec = AdmittedJob.model_validate({**SPEC, "search": {}, "budget": {"full_runs": 40}})
        deciding = [jobs.create(tx, spec)[0].id for _ in range(DECIDING)]
    database.dispose()
    with _served(url, processes) as (port, process):
        groups = {"service": [process], "client": [psutil.Process()]} | ({"database": servers} if servers else {})
        cpu = Cpu(**groups)
        alone = asyncio.run(_alone(port, job, cpu))
        crowd = asyncio.run(_crowd(port, job, deciding, seconds, cpu))
    name = f"lrtune on {make_url(url).get_backend_name()}" + (f", {processes} processes" if processes > 1 else "")
    return {"storage": name, **alone, "everything at once": crowd}


def floor(url: str) -> dict[str, Any]:
    """What the reports cost where the server writes nothing and asks for no verdict."""
    with _served(url, 1, "benchmarks.load.floor:create_app") as (port, process):
        alone = asyncio.run(_unwritten(port, Cpu(service=[process], client=[psutil.Process()])))
    return {"storage": "lrtune, a report that writes nothing", "reports alone": alone}


async def _unwritten(port: int, cpu: Cpu) -> dict[str, Any]:
    """All loops report as those of `_alone`, with a first one before them."""
    held = [{"trial": {"number": number}, "token": "none", "until": STEPS} for number in range(LOOPS)]
    job, seen = "job-of-nobody", Seen()
    connections = [Connection(port, KEY, seen) for _ in held]
    await _reported(connections[0], job, held[0], 0.0, math.inf)
    seen.times.clear()
    cpu.start()
    began = time.monotonic()
    await asyncio.gather(
        *(_reported(one, job, trial, 0.0, math.inf) for one, trial in zip(connections, held, strict=True))
    )
    found = summary(seen, time.monotonic() - began, cpu.spent(), each="report")
    for one in connections:
        one.close()
    return found


@contextmanager
def _served(url: str, processes: int, app: str = "app.main:create_app") -> Iterator[tuple[int, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = os.environ | {"LRTUNE_DATABASE_URL": url, "LRTUNE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    words = ["uvicorn", "--factory", app, "--port", f"{port}", "--log-level", "warning"]
    words += ["--workers", f"{processes}"] if processes > 1 else []
    server = subprocess.Popen([sys.executable, "-m", *words], env=environment, cwd=Path(__file__).parents[2])
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


async def _alone(port: int, job: str, cpu: Cpu) -> dict[str, Any]:
    """Every loop takes a trial; then all report theirs, with nothing between two reports; so `ROUNDS` times.

    One trial goes before them: a server that has just started fits its model of a job anew, once.
    """
    first = Connection(port, KEY, Seen())
    held = await _taken(first, job, LOOPS)
    await _reported(first, job, held, 0.0, math.inf)
    await _finished(first, job, held)
    first.close()
    seen, seconds, spent = Seen(), 0.0, dict[str, float]()
    connections = [Connection(port, KEY, seen) for _ in range(LOOPS)]
    for number in range(ROUNDS):
        cpu.start()
        began = time.monotonic()
        taken = await asyncio.gather(*(_taken(one, job, name) for name, one in enumerate(connections)))
        if number == 0:
            claims = summary(seen, time.monotonic() - began, cpu.spent(), each="claim")
        cpu.start()
        began = time.monotonic()
        ended = [_reported(one, job, trial, 0.0, math.inf) for one, trial in zip(connections, taken, strict=True)]
        stopped = await asyncio.gather(*ended)
        seconds += time.monotonic() - began
        spent = {name: spent.get(name, 0.0) + more for name, more in cpu.spent().items()}
        for one, trial, over in zip(connections, taken, stopped, strict=True):
            if not over:
                await _finished(one, job, trial)
    for one in connections:
        one.close()
    seen.times = {"report": seen.times["report"]}
    return {"claims alone": claims, "reports alone": summary(seen, seconds, spent, each="report")}


async def _crowd(port: int, job: str, deciding: list[str], seconds: float, cpu: Cpu) -> dict[str, Any]:
    """Loops that train, people who look, streams that are open; a quarter of the loops are at jobs that decide.

    The loops come one after the other in the time that a trial takes, as they do when each has trained for a while;
    measured is what comes then.
    """
    seen = Seen()
    every = [job, *deciding]
    streams = [asyncio.create_task(_follow(port, every[n % len(every)], seen)) for n in range(STREAMS)]
    came = REPORT_EVERY * len(POINTS)
    end = time.monotonic() + came + seconds
    async with asyncio.TaskGroup() as group:
        for name in range(LOOPS):
            mine = deciding[name // 4 % DECIDING] if name % 4 == 0 else job
            group.create_task(_loop(Connection(port, KEY, seen), LOOPS + name, mine, end))
        for name in range(POLLERS):
            group.create_task(_poll(Connection(port, KEY, seen), every[name % len(every)], end))
        await asyncio.sleep(came)
        seen.times.clear()
        cpu.start()
        began = time.monotonic()
    for one in streams:
        one.cancel()
    return summary(seen, time.monotonic() - began, cpu.spent(), each="report")


async def _loop(service: Connection, name: int, job: str, end: float) -> None:
    """Take trials of a job, report them, finish them."""
    await asyncio.sleep(random.uniform(0.0, REPORT_EVERY * len(POINTS)))
    while time.monotonic() < end:
        if held := await _taken(service, job, name):
            if not await _reported(service, job, held, REPORT_EVERY, end):
                await _finished(service, job, held)
        else:
            await asyncio.sleep(1.0)
    service.close()


async def _taken(service: Connection, job: str, name: int) -> Any:
    """A trial; nothing where there is none just now."""
    hold = {"worker": f"loop-{name}", "lease_seconds": LEASE}
    status, held = await service.call("claim", "POST", f"/v1/jobs/{job}/trials", hold)
    return held if status == 200 else None


async def _reported(service: Connection, job: str, held: Any, pause: float, end: float) -> bool:
    """The reports of a trial, until the server stops it or time is up; whether that came before all were sent."""
    if held is None:
        return True
    mine, base = f"/v1/jobs/{job}/trials/{held['trial']['number']}", {"token": held["token"], "lease_seconds": LEASE}
    for step in (one for one in POINTS if one <= held["until"]):
        await asyncio.sleep(pause)
        reports = [{"step": step, "metrics": {"val_loss": value(step)}}]
        _, verdict = await service.call("report", "POST", f"{mine}/reports", base | {"reports": reports})
        if time.monotonic() > end or not verdict or verdict["decision"] == "stop":
            return True
    return False


async def _finished(service: Connection, job: str, held: Any) -> None:
    path = f"/v1/jobs/{job}/trials/{held['trial']['number']}/finish"
    await service.call("finish", "POST", path, {"token": held["token"], "state": "complete"})


async def _poll(service: Connection, job: str, end: float) -> None:
    await asyncio.sleep(random.uniform(0.0, POLL_EVERY))
    while time.monotonic() < end:
        await service.call("poll", "GET", f"/v1/jobs/{job}")
        await asyncio.sleep(POLL_EVERY)
    service.close()


async def _follow(port: int, job: str, seen: Seen) -> None:
    await asyncio.sleep(random.random())
    await Connection(port, KEY, seen).follow(f"/v1/jobs/{job}/events")
    seen.errors["a stream that ended"] += 1
