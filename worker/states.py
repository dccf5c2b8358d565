"""Where training states are kept: one safetensors file each, below a directory or any URL that fsspec knows.

A file's name says what it is, `<key>_<step>_<kind>_<score>_<checksum>.safetensors` in the folder of its namespace (the
hash of the key's header: runs that differ in their rates alone share one), so that looking up and making room need no
reading. It is written beside its place and moved there in one piece, which outlives the worker; `secure` waits until it
outlives the host as well. What is read must have the checksum of its name, or it is `Damaged`.

A ledger has which state is of which trial (`lrtune/store/states.py`), so that room is made of what nobody counts on.
"""

import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import fsspec
import numpy as np

from lrtune.errors import TaskError
from lrtune.store.states import Use
from worker.packing import Bytes, Damaged, Packed, packed, unpacked
from worker.room import ELSEWHERE, NAME, SHARE, Entry, Kind, entry, share_of_disk, worst_first
from worker.snapshot import Snapshot

ROOM = 0.95  # making room goes down to this share of the budget
FOLDER, CHECKSUM = 32, 32  # characters of a namespace, and of a checksum
LARGE = 16 * 2**20  # bytes from which on a state is written beside the training, and what it costs is weighed
CHUNK = 8 * 2**20  # bytes that are read before the next are asked for
OFTEN = 50  # what is there is counted again whenever one part of so many of the budget was written
LOCK = "room"  # the file that is locked while room is made for a large state
ID = "store-id"  # the file that tells one store of states from another


class Ledger(Protocol):
    """What a database knows of the states of one store, by their keys."""

    def uses(self) -> Mapping[str, Sequence[Use]]:
        """What each is of."""

    def let_go(self, keys: Collection[str]) -> set[str]:
        """Count on these no more; those of which the files may go."""


class Store:
    """The states below one URL, with room for `budget` bytes; None is for a share of the disk.

    Every method may raise OSError.
    """

    def __init__(self, url: str, *, budget: int | None = None, ledger: Ledger | None = None) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise TaskError(
                f"LRTUNE_STATE_DIR: found {url!r}; accepted is a directory or a URL of fsspec's ({error})"
            ) from None
        self._seen, self._added, self._fresh, self._ledger = 0, 0, False, ledger
        self._id: str | None = None
        self._counting = threading.RLock()  # one thread writes while another drops
        self._wrote, self._seconds = 0.0, 0.0  # bytes of large states, and what writing them took
        self._shared, self.budget = budget is None, self._share() if budget is None else budget

    @property
    def local(self) -> bool:
        """Whether the states are files of this host."""
        return "file" in self._files.protocol

    def room(self) -> str:
        """How much room there is for states, and why, in words."""
        if not self._shared:
            return f"at most {self.budget / 1e9:.3g} GB, as LRTUNE_STATE_BYTES says"
        why = "a quarter of what is free there" if self.local else "as nobody knows what is free there"
        return f"at most {self.budget / 1e9:.3g} GB, {why}; LRTUNE_STATE_BYTES sets it"

    def id(self) -> str:
        """What tells this store from others, for all who use it; made by the first who asks."""
        if self._id is not None and not self.local:  # here a folder may be made anew at any time
            return self._id
        path = f"{self._root}/{ID}"
        if not self._files.exists(path):
            own = uuid.uuid4().hex.encode()
            half = f"{self._root}/half-{own.decode()}"
            self._fill(half, Packed(len(own), iter([own])))
            with suppress(FileExistsError):  # another was quicker
                os.link(half, path) if self.local else self._files.mv(half, path)
            if self.local:
                self._files.rm_file(half)
        found: bytes = self._files.cat_file(path)
        self._id = found.decode()[:100]
        return self._id

    def entries(self, namespace: str) -> dict[str, Entry]:
        """The states of runs that differ in their rates alone, by key."""
        return {one.key: one for one in self._listed(f"{self._root}/{namespace[:FOLDER]}")}

    def read(self, one: Entry) -> Snapshot:
        """A state, and note that it was of use. Raises Damaged."""
        most = self.budget * SHARE if self._shared else self.budget  # another may have found more room free
        if one.size > most:
            raise Damaged(f"its {one.size:,} bytes are more than LRTUNE_STATE_BYTES, which is {most:,}")
        with self._opened(one.path) as file:
            data, checksum = _content(file, one.size)
        found = NAME.fullmatch(_last(one.path))
        if found is None or checksum != found[5]:
            raise Damaged(f"its {len(data):,} bytes do not have the checksum of its name")
        state = unpacked(data, key=one.key, step=one.step)
        if self.local:
            os.utime(one.path)
        return state

    def write(
        self,
        namespace: str,
        key: str,
        kind: Kind,
        score: float | None,
        state: Snapshot,
        *,
        instead: Entry | None = None,
    ) -> Entry | None:
        """Keep a state, all of it or nothing, after making room for it: first of the one that it is there `instead` of.

        None where all that is there is worth more.
        """
        began, file = time.monotonic(), packed(state, key=key)
        if file.size > self.budget:
            raise OSError(f"a state of {file.size:,} bytes is larger than LRTUNE_STATE_BYTES, which is {self.budget:,}")
        folder, step = f"{self._root}/{namespace[:FOLDER]}", state.notes["step"]
        half = f"{folder}/half-{uuid.uuid4().hex}"
        with self._alone(file.size):
            if not self._make_room(file.size, kind, instead):
                return None
            self._reserve(half, file.size)
        worth, checksum = "nan" if score is None else f"{score:.6g}", hashlib.sha256()
        self._fill(half, Packed(file.size, _hashed(file, checksum)))
        path = f"{folder}/{key}_{step}_{kind}_{worth}_{checksum.hexdigest()[:CHECKSUM]}.safetensors"
        self._move(half, path)
        with self._counting:
            self._added += file.size
        self._took(file.size, time.monotonic() - began)
        return Entry(path, key, step, kind, float(worth), file.size, time.time())

    def secure(self, entries: Sequence[Entry]) -> list[Entry]:
        """Wait until the disk has these states, their names included; what lies elsewhere is there once written.

        Those that are there: of others room was made meanwhile.
        """
        if not self.local:
            return [*entries]
        began, there = time.monotonic(), [one for one in entries if _synced(one.path)]
        for folder in dict.fromkeys(one.path.rpartition("/")[0] for one in there):
            _synced(folder)
        self._took(max((one.size for one in there), default=0), time.monotonic() - began, again=True)
        return there

    def seconds(self, size: int) -> float:
        """How long it takes to keep a state of so many bytes, by the large ones that were written last."""
        return size * self._seconds / self._wrote if self._wrote and size >= LARGE else 0.0

    def drop(self, one: Entry) -> None:
        """Forget a state; another worker may have been quicker."""
        with self._counting:
            try:
                self._files.rm_file(one.path)
            except FileNotFoundError:
                return
            self._added -= one.size

    def _took(self, size: int, seconds: float, *, again: bool = False) -> None:
        """Learn what large states cost; the last count most. `again`: more of what the last one cost."""
        if size >= LARGE:
            self._wrote = self._wrote if again else self._wrote / 2 + size
            self._seconds = self._seconds + seconds if again else self._seconds / 2 + seconds

    def _share(self) -> int:
        if not self.local:
            return ELSEWHERE
        try:
            return share_of_disk(self._root, sum(one.size for one in self._listed(self._root, half=True)))
        except OSError:
            return ELSEWHERE  # who cannot write there says so when there is something to write

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes]]:
        """A file to read: here a regular one, opened so that neither a pipe nor a link is waited for."""
        if not self.local:
            with self._files.open(path, "rb") as file:
                yield file
            return
        try:
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise Damaged("it is no regular file") from error
            raise
        with os.fdopen(opened, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise Damaged("it is no regular file")
            yield file

    @contextmanager
    def _alone(self, size: int) -> Iterator[None]:
        """Let the other workers of this host wait while room is made for what takes much of it."""
        if not self.local or size < self.budget / OFTEN:
            yield
            return
        with self._new(f"{self._root}/{LOCK}", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _reserve(self, half: str, size: int) -> None:
        """Have a file that takes much room counted before it is written."""
        if self.local and size >= self.budget / OFTEN:
            with self._new(half) as file:
                file.truncate(size)

    def _fill(self, half: str, data: Packed) -> None:
        """Write a file that is not yet in its place; nothing is left of one that cannot be."""
        try:
            with self._new(half, "r+b" if self.local and Path(half).exists() else "wb") as file:
                for part in data.parts:
                    file.write(part)
        except Exception as error:
            if self._files.exists(half):
                self._files.rm_file(half)
            raise error if isinstance(error, OSError) else OSError(str(error)) from error

    def _new(self, path: str, mode: str = "wb") -> Any:
        """A file to write, and the folders above it where there are none."""
        if not self.local:
            return self._files.open(path, "wb")
        try:
            return Path(path).open(mode)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return Path(path).open(mode)

    def _move(self, half: str, path: str) -> None:
        """Bring a written file to its place in one piece."""
        if self.local:
            Path(half).replace(path)
        else:
            self._files.mv(half, path)

    def _make_room(self, size: int, kind: Kind, instead: Entry | None) -> bool:
        """Keep below the budget; whether there is room. What others write is counted again now and then."""
        if self._fresh and self._seen + self._added + size <= self.budget and self._added < self.budget / OFTEN:
            return True
        with self._counting:
            every = self._listed(self._root, half=True)
            self._seen, self._added, self._fresh = sum(one.size for one in every), 0, True
        if self._seen + size <= self.budget:
            return True
        uses = self._ledger.uses() if self._ledger else {}
        order = [*([instead] if instead else ()), *worst_first(every, uses, kind=kind, now=time.time())]
        enough, spared, freed = self.budget * (ROOM if size < self.budget / OFTEN else 1), list[Entry](), 0
        for one in {one.path: one for one in order}.values():
            if self._seen + size - freed <= enough:
                break
            spared.append(one)
            freed += one.size
        if self._seen + size - freed <= self.budget:  # else it would be in vain
            self._let_go(spared)
        return self._seen + self._added + size <= self.budget

    def _let_go(self, spared: Sequence[Entry]) -> None:
        """Remove states, once nobody counts on them any more."""
        keys = {one.key for one in spared if one.key}
        gone = self._ledger.let_go(keys) if self._ledger and keys else keys
        for one in spared:
            if not one.key or one.key in gone:
                self.drop(one)
        if self._ledger and gone:
            self._ledger.let_go(gone)  # one that was written down while it went

    def _listed(self, folder: str, *, half: bool = False) -> list[Entry]:
        try:
            found = self._files.find(folder, detail=True)
        except FileNotFoundError:
            return []
        return [one for path, info in found.items() if (one := entry(path, info, half=half))]


def _hashed(file: Packed, checksum: Any) -> Iterator[Any]:
    """The parts of a file, with their checksum; of a large one it is worked out while the disk is busy."""
    if file.size < LARGE:
        for part in file.parts:
            checksum.update(part)
            yield part
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checksum") as thread:
        done = thread.submit(checksum.update, b"")
        for part in file.parts:
            done.result()
            done = thread.submit(checksum.update, part)
            yield part
        done.result()


def _content(file: IO[bytes], size: int) -> tuple[Bytes, str]:
    """The bytes of a file, and their checksum."""
    data, checksum = np.empty(size, dtype=np.uint8), hashlib.sha256()
    filled = sum(len(part) for part in _hashed(Packed(size, _chunks(file, data)), checksum))
    return data[:filled], checksum.hexdigest()[:CHECKSUM]


def _chunks(file: Any, into: Bytes) -> Iterator[Bytes]:
    """What a file has, read into its place."""
    filled = 0
    while filled < len(into) and (found := file.readinto(into[filled : filled + CHUNK])):
        yield into[filled : filled + found]
        filled += found


def _synced(path: str) -> bool:
    """Wait until the disk has a file, or the names in a folder; whether it is there."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
    return True


def _last(path: str) -> str:
    return path.rpartition("/")[2]
