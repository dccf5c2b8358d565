"""`lrtune doctor`: everything the service needs here, looked at once; what is wrong, and what to do, in words.

It reads the settings that server and worker would read here, and changes nothing. A new check is a function that yields
what it finds, and its line in `CHECKS`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import httpx
from pydantic import ValidationError
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.settings import Settings
from lrtune import __version__
from lrtune.client import Client
from lrtune.errors import LrtuneError, Unavailable
from lrtune.printable import printable
from lrtune.settings import refused
from lrtune.store import Database, schema, workers
from lrtune.store.census import unserved, waiting
from lrtune.store.database import clock, in_a_line, lite
from lrtune.uploads import mirror

OFF = 5.0  # seconds that two clocks may differ
LITTLE, SHARE = 2**30, 0.05  # bytes, and of a disk: less is little
GPU = """
import json, torch
found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "built": torch.version.cuda,
    "devices": [f"{one.name}, {one.total_memory / 2**30:.0f} GB" for one in found]}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and in words what was found and what to do."""

    about: str
    is_: Literal["well", "to note", "wrong"]
    words: str


Check = Callable[[Settings], Iterator[Finding]]


def well(about: str, words: str) -> Finding:
    """It is as it should be."""
    return Finding(about, "well", words)


def note(about: str, words: str) -> Finding:
    """It may be as it should be."""
    return Finding(about, "to note", words)


def wrong(about: str, words: str) -> Finding:
    """It is not."""
    return Finding(about, "wrong", words)


def versions(_: Settings) -> Iterator[Finding]:
    """What is installed."""
    found = [f"lrtune {__version__}", f"Python {platform.python_version()}"]
    for name in ("sqlalchemy", "psycopg", "pydantic", "optuna", "fastapi"):
        with suppress(PackageNotFoundError):  # a host with a worker alone needs no fastapi
            found.append(f"{name} {version(name)}")
    yield well("versions", ", ".join(found))


def database(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, has the schema, keeps the time; who works, and for whom nobody does."""
    try:
        url = make_url(settings.database_url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            yield note("database", f"{shown} is not there yet; the server makes it as it starts")
            return
        opened = Database(settings.database_url)
        try:
            with opened.read() as tx:
                yield from _read(tx, shown)
        finally:
            opened.dispose()
    except ArgumentError:
        accepted = "sqlite:///path/to/file.db or postgresql+psycopg://user:password@host/name"
        yield wrong("database", f"LRTUNE_DATABASE_URL is no address of a database; accepted is {accepted}")
    except (SQLAlchemyError, OSError, ImportError) as error:
        yield wrong(
            "database", f"{shown} does not answer: {in_a_line(error)}. Is it running, and is LRTUNE_DATABASE_URL right?"
        )


def _read(tx: Session, shown: str) -> Iterator[Finding]:
    on_lite = lite(tx)
    about = tx.scalar(text("select sqlite_version()" if on_lite else "show server_version"))
    yield well("database", f"{shown} answers ({'SQLite' if on_lite else 'PostgreSQL'} {about})")
    if on_lite and (damage := tx.scalar(text("pragma quick_check(1)"))) != "ok":
        yield wrong("database", f"the file is damaged ({damage}): stop the service and bring a backup back")
    if words := schema.differs(schema.found(tx)):
        yield wrong("migrations", words)
        return
    yield well("migrations", f"the schema is {schema.REVISION}, as this version of lrtune needs it")
    yield from _clock(tx, lite=on_lite)
    yield from _working(tx)


def _clock(tx: Session, *, lite: bool) -> Iterator[Finding]:
    """On PostgreSQL its clock counts; on SQLite, what workers of other hosts have written tells of theirs."""
    now, theirs = datetime.now(UTC), clock(tx)
    if lite:
        seen = max((one.seen_at for one in workers.alive(tx, now=now)), default=now)
        off = (now - seen).total_seconds() if seen > now else 0.0
    else:
        off = (now - theirs).total_seconds()
    whose = "what a worker has written" if lite else "the database's"
    if abs(off) > OFF:
        words = f"the clock of this host is {abs(off):.0f} seconds {'ahead of' if off > 0 else 'behind'} {whose}"
        yield (
            wrong("clock", f"{words}: set it, as NTP does")
            if lite
            else note("clock", f"{words}, which alone decides about leases; logs of the two will not agree")
        )
    else:
        yield well("clock", f"this host's clock agrees with {whose}")


def _working(tx: Session) -> Iterator[Finding]:
    alive = workers.alive(tx)
    if alive:
        where = ", ".join(sorted({f"{one.device} on {one.host}" for one in alive}))
        yield well("workers", f"{len(alive)} of them, heard of lately: {where}")
    else:
        yield note("workers", "none was heard of in the last two minutes: `lrtune worker` starts one")
    for job, why in unserved(tx):
        yield wrong("jobs", f"{job} waits and no worker can train it: {why}")
    if (oldest := waiting(tx)) > 3600:
        yield note(
            "jobs", f"the oldest job that waits has waited for {oldest / 3600:.1f} hours: more workers would help"
        )


def disk(settings: Settings) -> Iterator[Finding]:
    """Room where we write, and that the data can be reached."""
    if "://" in (url := mirror.said(settings.data_dir)):
        try:
            yield well("disk", f"{url} (LRTUNE_DATA_DIR) can be read: {len(mirror.names(settings.data_dir))} names")
        except Unavailable as error:
            yield wrong("disk", str(error))
    places = {"LRTUNE_DATA_DIR": settings.data_dir}
    if settings.database_url.startswith("sqlite:///"):
        places["LRTUNE_DATABASE_URL"] = Path(settings.database_url.removeprefix("sqlite:///")).parent
    if "://" not in (states := os.environ.get("LRTUNE_STATE_DIR", ".lrtune/states")):
        places["LRTUNE_STATE_DIR"] = Path(states)
    for name, folder in places.items():
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        room = shutil.disk_usage(there)
        words = f"{room.free / 2**30:.1f} of {room.total / 2**30:.0f} GB free at {folder} ({name})"
        if room.free < LITTLE or room.free < SHARE * room.total:
            yield wrong("disk", f"{words}: make room, or uploads and reports will be refused")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield wrong("disk", f"{folder} ({name}) cannot be written by this user: change its owner or its mode")
        else:
            yield well("disk", words)


def gpu(_: Settings) -> Iterator[Finding]:
    """What torch sees, in a process of its own: it is the worker's, and may crash with a driver."""
    ran = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    if ran.returncode:
        missing = "No module named 'torch'" in ran.stderr
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        if missing:
            yield note("gpu", "torch is not installed here, so no worker can run here; the server needs none")
        else:
            yield wrong("gpu", f"torch does not start: {last}")
        return
    found = json.loads(ran.stdout.splitlines()[-1])
    if found["devices"]:
        yield well("gpu", f"torch {found['torch']} sees {'; '.join(found['devices'])}")
    elif found["built"]:
        words = f"torch {found['torch']} is built for CUDA {found['built']} and sees no GPU: is the driver there?"
        yield note("gpu", f"{words} Workers train on the CPU meanwhile")
    else:
        yield note("gpu", f"torch {found['torch']} is built for the CPU: workers train there")


def server(_: Settings) -> Iterator[Finding]:
    """Whether the server that clients would ask here answers, is ready, and takes the key."""
    try:
        client = Client()
    except LrtuneError as error:
        yield note("server", f"not asked: {error}")
        return
    with client:
        try:
            ready = httpx.get(f"{client.url}/readyz", timeout=10, trust_env=False)
            list(client.tasks())
        except (LrtuneError, httpx.HTTPError) as error:
            if isinstance(error, httpx.ConnectError):  # no fault where only a worker is to run
                away = f"no lrtune server answers at {client.url} ({error}); start one with `lrtune serve`"
                yield note("server", f"{away}, or name another in LRTUNE_URL")
            else:
                yield wrong("server", f"{client.url}: {error or type(error).__name__}")
            return
    if ready.is_success:
        yield well("server", f"{client.url} is ready and takes the key")
    else:
        yield wrong("server", f"{client.url} is up and not ready: {ready.json().get('detail')}")


CHECKS: tuple[Check, ...] = (versions, database, disk, gpu, server)


def findings() -> Iterator[Finding]:
    """Everything, one after the other."""
    if found := [*dict.fromkeys(_refused())]:
        yield from (wrong("settings", words) for words in found)
        return
    settings = Settings()
    for check in CHECKS:
        yield from check(settings)


def _refused() -> Iterator[str]:
    """What server or worker would refuse of the environment; where only one of them runs, the other's is not set."""
    for kind in (Settings, import_module("worker.settings").Settings):
        try:
            kind()
        except ValidationError as error:
            yield from refused(error)


def main() -> int:
    """Print what is found; 1 where something is wrong."""
    parser = argparse.ArgumentParser("python -m app.doctor", description="Look at everything the service needs here.")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    asked, found = parser.parse_args(), list[Finding]()
    for one in findings():
        found.append(one)
        if not asked.json:
            print(printable(f"{one.is_:8}{one.about}: {one.words}"), flush=True)
    if asked.json:
        plain = [{name.rstrip("_"): value for name, value in asdict(one).items()} for one in found]
        print(json.dumps(plain, indent=2))
    return int(any(one.is_ == "wrong" for one in found))


if __name__ == "__main__":
    sys.exit(main())
