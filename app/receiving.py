"""Taking in an upload: streamed to a temporary file beside its later place, its digest counted on the way.

A temporary file is locked while its upload lives, so at the next start one that a crash left is known from one that
another server still writes.
"""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from starlette.requests import ClientDisconnect, Request

from lrtune.errors import BadRequest, TooLarge, Unavailable
from lrtune.wire.datasets import FOLDER

PART = ".part"
BLOCK = 1024 * 1024
IDLE = 60.0  # seconds without a byte after which an upload is given up


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
