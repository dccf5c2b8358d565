"""Taking in a dataset: streamed to a temporary file beside its later place, its digest counted on the way; and out.

A temporary file is locked while its upload lives, so at the next start one that a crash left is known from one that
another server still writes.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect, Request

from app import quotas
from lrtune.errors import BadRequest, NameTaken, TooLarge, Unavailable
from lrtune.store import Database, datasets
from lrtune.uploads import describe, kind_of, mirror
from lrtune.wire.datasets import FOLDER, Dataset, Description, Kind
from lrtune.wire.people import Caller

PART = ".part"
BLOCK = 1024 * 1024
IDLE = 60.0  # seconds without a byte after which an upload is given up
UNPACKED = 4  # times the largest upload that a file may take unpacked
NAMES = r"^[A-Za-z0-9_][A-Za-z0-9_ .()+-]{0,95}\.[A-Za-z]{2,7}$"


def _plain(name: str) -> str:
    if not re.fullmatch(NAMES, name):
        signs = "letters without accents, digits, spaces and _ . ( ) + -"
        raise ValueError(f"accepted are {signs}, and a suffix such as .csv; `name` may be another than the file's")
    return name


Name = Annotated[
    str,
    AfterValidator(_plain),
    Query(
        description="What jobs call it; the suffix says what it is, and the content must agree.",
        json_schema_extra={"pattern": NAMES},
        max_length=100,
        examples=["wine.csv"],
    ),
]


@contextmanager
def part(data_dir: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file that is gone afterwards, unless it was moved."""
    folder = data_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(suffix=PART, dir=folder)
    except OSError as error:
        raise Unavailable(f"the data folder cannot be written: {error.strerror}") from None
    path = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def sweep(data_dir: Path) -> None:
    """Remove what uploads left that were cut off by a crash."""
    for path in (data_dir / FOLDER).glob(f"*{PART}"):
        # OSError: it is being written, or was moved a moment ago, or is somebody else's
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


async def receive(request: Request, file: BinaryIO, *, limit: int) -> tuple[str, int]:
    """Write the body of a request; (its SHA-256, its size). Raises TooLarge, BadRequest, Unavailable."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    digest, size = hashlib.sha256(), 0
    try:
        async for block in _blocks(request):
            size += len(block)
            if size > limit:
                raise _too_large(limit)
            digest.update(block)
            await asyncio.to_thread(file.write, block)
        await asyncio.to_thread(_settle, file)
    except ClientDisconnect:
        raise BadRequest("the upload broke off before its end; nothing of it was kept") from None
    except TimeoutError:
        raise BadRequest(f"no byte came for {IDLE:g} seconds; nothing of the upload was kept") from None
    except OSError as error:
        raise Unavailable(f"the upload cannot be written: {error.strerror}") from None
    return digest.hexdigest(), size


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of a good size to write."""
    stream, gathered = aiter(request.stream()), bytearray()
    while True:
        try:
            gathered += await asyncio.wait_for(anext(stream), IDLE)
        except StopAsyncIteration:
            break
        if len(gathered) >= BLOCK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the file is larger than the {limit} bytes accepted here (LRTUNE_MAX_UPLOAD_BYTES)")


def _settle(file: BinaryIO) -> None:
    """Have the bytes on the disk before they get their name."""
    file.flush()
    os.fchmod(file.fileno(), 0o644)  # the workers may be another user
    os.fsync(file.fileno())


async def dataset(request: Request, name: str, person: str) -> tuple[Dataset, bool]:
    """Take in the body of a request as somebody's dataset; (the dataset, whether it is new).

    Raises BadRequest, TooLarge, UnusableFile, NameTaken, QuotaReached, Unavailable.
    """
    settings, kind = request.app.state.settings, kind_of(name)
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise BadRequest("found a form; accepted is the file itself as the body, as `curl --data-binary @FILE`")
    announced = request.headers.get("content-length", "")
    async with request.app.state.reading:
        await run_in_threadpool(_room, request, person, int(announced) if announced.isdigit() else 0)
    with part(settings.data_dir) as (file, path):
        digest, size = await receive(request, file, limit=settings.max_upload_bytes)
        largest = UNPACKED * settings.max_upload_bytes
        async with request.app.state.describing:
            found = await run_in_threadpool(describe, path, kind, largest=largest)
        keep = partial(_keep, request, person, found, path)
        async with request.app.state.writing:
            return await run_in_threadpool(keep, digest=digest, name=name, kind=kind, size=size)


def _room(request: Request, person: str, size: int) -> None:
    """Raise QuotaReached before anything is received where it would be afterwards."""
    database: Database = request.app.state.database
    with database.read() as tx:
        quotas.upload(tx, request.app.state.settings, person, size, hold=False)


def _keep(
    request: Request, person: str, found: Description, part: Path, *, digest: str, name: str, kind: Kind, size: int
) -> tuple[Dataset, bool]:
    settings, database = request.app.state.settings, request.app.state.database
    data_dir: Path = settings.data_dir
    mirror.fetch(data_dir, [name])
    if (data_dir / name).exists():
        raise NameTaken(f"a file {name!r} lies in the data folder already; choose another name")

    def put(file: str) -> None:
        try:
            part.replace(data_dir / file)
            mirror.keep(data_dir, file)
        except OSError as error:
            raise Unavailable(f"the upload cannot be kept: {error.strerror}") from None

    with database.write() as tx:
        quotas.upload(tx, settings, person, size)
        return datasets.add(tx, found, digest=digest, name=name, kind=kind, size=size, owner=person, put=put)


def remove(request: Request, tx: Session, name: str, who: Caller, only: str | None) -> None:
    """Forget a dataset and its bytes. Raises UnknownDataset, NotYours, DatasetInUse."""
    data_dir: Path = request.app.state.settings.data_dir
    datasets.remove(tx, name, unlink=partial(mirror.remove, data_dir), by=who, only=only)
