"""Where training states are kept: one safetensors file each, below a directory or any URL that fsspec knows.

A file's name says what it is, `<key>_<step>_<kind>_<score>_<checksum>.safetensors` in the folder of its namespace (the
hash of the key's header: runs that differ in their rates alone share one), so that looking up and making room need no
reading. It is written beside its place and moved there in one piece, which outlives the worker; `secure` waits until it
outlives the host as well. What is read must have the checksum of its name, the format of `cache_key.FORMAT` and its own
key inside, or it is `Damaged`.
"""

import errno
import hashlib
import json
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import fsspec
import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import to_json
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lrtune.errors import TaskError
from lrtune.wire.results import Report
from worker.cache_key import FORMAT
from worker.snapshot import Snapshot

# What a state is of: a stretch where other runs may leave, the end of a stage or of a schedule, a run on its way.
Kind: TypeAlias = Literal["trunk", "stage", "end", "running"]
LEADERS = 3  # of each namespace: the ends with the best scores go last
STALE = 3600.0  # seconds after which a state on its way, or a half-written file, is nobody's
ROOM = 0.95  # making room goes down to this share of the budget
NAME = re.compile(
    r"([0-9a-f]{64})_(\d{1,18})_(trunk|stage|look|end|running)_(nan|[-+]?\d[\d.]*(?:e[-+]?\d+)?)_([0-9a-f]{32})\.safetensors"
)
FOLDER, CHECKSUM = 32, 32  # characters of a namespace, and of a checksum

# What safetensors calls them.
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


class Damaged(Exception):
    """A state that is not what its name says."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A state that is there."""

    path: str
    key: str
    step: int
    kind: Kind
    score: float
    size: int
    at: float  # when it was last used, in seconds


class Store:
    """The states below one URL, with room for `budget` bytes. Every method may raise OSError."""

    def __init__(self, url: str, *, budget: int) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise TaskError(
                f"LRTUNE_STATE_DIR: found {url!r}; accepted is a directory or a URL of fsspec's ({error})"
            ) from None
        self._budget, self._seen, self._added = budget, 0, 0
        self._fresh, self._counting = False, threading.RLock()  # one thread writes while another drops

    @property
    def local(self) -> bool:
        """Whether the states are files of this host."""
        return "file" in self._files.protocol

    def entries(self, namespace: str) -> dict[str, Entry]:
        """The states of runs that differ in their rates alone, by key."""
        return {entry.key: entry for entry in self._listed(f"{self._root}/{namespace[:FOLDER]}")}

    def read(self, entry: Entry) -> Snapshot:
        """A state, and note that it was of use. Raises Damaged."""
        if entry.size > self._budget:
            raise Damaged(f"its {entry.size:,} bytes are more than LRTUNE_STATE_BYTES, which is {self._budget:,}")
        data = _content(entry.path) if self.local else self._files.cat_file(entry.path)
        found = NAME.fullmatch(_last(entry.path))
        if found is None or _checksum(data) != found[5]:
            raise Damaged(f"its {len(data):,} bytes do not have the checksum of its name")
        state = unpacked(data, key=entry.key, step=entry.step)
        if self.local:
            os.utime(entry.path)
        return state

    def write(self, namespace: str, key: str, kind: Kind, score: float | None, state: Snapshot) -> Entry:
        """Keep a state, all of it or nothing, after making room for it."""
        data = packed(state, key=key)
        if len(data) > self._budget:
            raise OSError(
                f"a state of {len(data):,} bytes is larger than LRTUNE_STATE_BYTES, which is {self._budget:,}"
            )
        self._make_room(len(data))
        folder, step = f"{self._root}/{namespace[:FOLDER]}", state.notes["step"]
        worth = "nan" if score is None else f"{score:.6g}"
        path = f"{folder}/{key}_{step}_{kind}_{worth}_{_checksum(data)}.safetensors"
        self._put(folder, path, data)
        with self._counting:
            self._added += len(data)
        return Entry(path, key, step, kind, float(worth), len(data), time.time())

    def secure(self, entries: Sequence[Entry]) -> None:
        """Wait until the disk has these states, their names included; what lies elsewhere is there once written."""
        if not self.local:
            return
        folders = dict.fromkeys(entry.path.rpartition("/")[0] for entry in entries)
        for path in (*(entry.path for entry in entries), *folders):
            with suppress(FileNotFoundError):  # room was made of it meanwhile
                _sync(path)

    def drop(self, entry: Entry) -> None:
        """Forget a state; another worker may have been quicker."""
        with self._counting:
            try:
                self._files.rm_file(entry.path)
            except FileNotFoundError:
                return
            self._added -= entry.size

    def _put(self, folder: str, path: str, data: bytes) -> None:
        half = f"{folder}/half-{uuid.uuid4().hex}"
        try:
            if self.local:
                _write(half, data)
                Path(half).replace(path)
            else:
                self._files.makedirs(folder, exist_ok=True)
                self._files.pipe_file(half, data)
                self._files.mv(half, path)
        except Exception as error:
            if self._files.exists(half):
                self._files.rm_file(half)
            raise error if isinstance(error, OSError) else OSError(str(error)) from error

    def _make_room(self, size: int) -> None:
        """Keep below the budget. Others write as well, so what is there is counted again every fiftieth of it."""
        if self._fresh and self._seen + self._added + size <= self._budget and self._added < self._budget / 50:
            return
        with self._counting:
            every = self._listed(self._root, half=True)
            self._seen, self._added, self._fresh = sum(entry.size for entry in every), 0, True
        if self._seen + size <= self._budget:
            return
        for entry in _worst_first(every, now=time.time()):
            self.drop(entry)
            if self._seen + self._added + size <= ROOM * self._budget:
                return

    def _listed(self, folder: str, *, half: bool = False) -> list[Entry]:
        try:
            found = self._files.find(folder, detail=True)
        except FileNotFoundError:
            return []
        return [entry for path, info in found.items() if (entry := _entry(path, info, half=half))]


def _write(path: str, data: bytes) -> None:
    """A file, and the folders above it where there are none."""
    try:
        Path(path).write_bytes(data)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)


def _content(path: str) -> bytes:
    """The bytes of a regular file, opened so that neither a pipe nor a link is waited for. Raises Damaged."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Damaged("it is no regular file") from error
        raise
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise Damaged("it is no regular file")
        return file.read()


def _sync(path: str) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def packed(state: Snapshot, *, key: str) -> bytes:
    """A state as the bytes of a safetensors file. Raises OSError for tensors that the format does not know.

    Written here, by https://github.com/huggingface/safetensors#format, because the library takes five times as long for
    the many small tensors of a small network, before each next segment of its training.
    """
    notes = to_json({"format": FORMAT, "key": key, **state.notes}, inf_nan_mode="constants").decode()
    head: dict[str, Any] = {"__metadata__": {"lrtune": notes}}
    parts, end = list[Any](), 0
    aligned = sorted(state.tensors.items(), key=lambda item: -item[1].element_size())
    try:
        for name, tensor in aligned:
            parts.append(_plain(tensor.cpu().contiguous()))
            begin, end = end, end + tensor.nbytes
            head[name] = {"dtype": DTYPES[tensor.dtype], "shape": tuple(tensor.shape), "data_offsets": [begin, end]}
    except (RuntimeError, NotImplementedError, KeyError, TypeError) as error:
        raise OSError(f"the state cannot be written: {error}") from error
    written = to_json(head)
    written += b" " * (-len(written) % 8)
    return b"".join([len(written).to_bytes(8, "little"), written, *parts])


def _plain(tensor: Tensor) -> Any:
    """A tensor's bytes as a buffer; NumPy has no bfloat16 and no eight-bit floats."""
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.reshape(-1).view(torch.uint8).numpy()


class _Beginning(BaseModel):
    """What every state says of its training, whatever was trained: each report and each stretch up to its step."""

    step: Annotated[int, Field(ge=1)]
    reports: list[Report]
    trained: Annotated[list[tuple[int, str]], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for places in ([one.step for one in self.reports], [step for step, _ in self.trained]):
            if (
                any(not before < after for before, after in pairwise([0, *places]))
                or max(places, default=0) > self.step
            ):
                raise ValueError(f"its steps {places} are not those of a training of {self.step} steps")
        if self.trained[-1][0] != self.step:
            raise ValueError(f"nobody trained it up to its step {self.step}")
        return self


def unpacked(data: bytes, *, key: str, step: int) -> Snapshot:
    """A state from the bytes of a file. Raises Damaged."""
    try:
        tensors: dict[str, Tensor] = load(data)
        length = int.from_bytes(data[:8], "little")
        notes: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["lrtune"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"it cannot be read: {error}") from error
    if not isinstance(notes, dict):
        raise Damaged("it cannot be read: its notes are no object")
    if notes.get("format") != FORMAT:
        raise Damaged(f"it is of format {notes.get('format')}; this worker reads {FORMAT}")
    if notes.get("key") != key:
        raise Damaged("it is another state than its name says")
    try:
        said = _Beginning.model_validate(notes)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"it says what no training does: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    if said.step != step:
        raise Damaged(f"it is of step {said.step}, and its name says {step}")
    return Snapshot(tensors, notes)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECKSUM]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _entry(path: str, info: dict[str, Any], *, half: bool) -> Entry | None:
    """What a file's name says; half-written ones are nobody's state, but take room. A link or a pipe is no state."""
    if info.get("type") != "file" or info.get("islink"):
        return None
    at = next((info[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in info), 0.0)
    seconds = at.timestamp() if isinstance(at, datetime) else float(at)
    size = int(info.get("size") or 0)
    if found := NAME.fullmatch(_last(path)):
        kind: Any = "stage" if found[3] == "look" else found[3]  # what earlier versions wrote
        return Entry(path, found[1], int(found[2]), kind, float(found[4]), size, seconds)
    if half and _last(path).startswith("half-"):
        return Entry(path, "", 0, "running", float("nan"), size, seconds)
    return None


def _worst_first(entries: Iterable[Entry], *, now: float) -> Iterator[Entry]:
    """What is least likely to be used again first: strays, ends, stages, trunks, leaders, runs on their way."""
    every = list(entries)
    ends: dict[str, list[Entry]] = {}  # with a score, by namespace
    for entry in every:
        if entry.kind in ("end", "stage") and entry.score == entry.score:
            ends.setdefault(entry.path.rpartition("/")[0], []).append(entry)
    best = (sorted(those, key=lambda entry: entry.score)[:LEADERS] for those in ends.values())
    leaders = {entry.path for those in best for entry in those}
    ranks = {"end": 1, "stage": 2, "trunk": 3, "running": 5}

    def rank(entry: Entry) -> tuple[int, float]:
        stray = entry.kind == "running" and now - entry.at > STALE
        return (0 if stray else 4 if entry.path in leaders else ranks[entry.kind]), entry.at

    return iter(sorted(every, key=rank))
