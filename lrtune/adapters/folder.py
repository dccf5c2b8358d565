"""A job's checkpoints in a folder: written whole or not at all, checked when read, bounded in bytes.

One is a file of torch's, or a directory that a framework has filled, with a list of its files' digests beside them.
Reading one cannot run code: it is loaded with torch's `weights_only`. Deleting needs no torch.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrtune.adapters.team import Alone
from lrtune.errors import LrtuneError

LEFT_SECONDS = 86_400.0  # without a change before what is unfinished counts as left behind by a process that was killed
SHARE = 0.5  # of the disk's free bytes, where nobody says how many checkpoints may take
NAME = re.compile(r"trial-\d{1,9}-step-\d{1,9}-[0-9a-f]{32}(\.pt)?")
LIST = "digests.json"  # of a directory's files
BROKEN = (OSError, RuntimeError, pickle.UnpicklingError, ValueError, KeyError, EOFError, TypeError, AttributeError)
log = logging.getLogger("lrtune.loop")


class Broken(LrtuneError):
    """A checkpoint that cannot be used; its message says why."""


class Folder:
    """The checkpoints of one job. `room` is how many bytes they may take together; those go first that were not needed
    for longest."""

    def __init__(self, path: Path, *, room: int | None = None) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.room = room or int((shutil.disk_usage(path).free + self._taken()) * SHARE)

    def write(self, trial: int, step: int, state: Mapping[str, Any]) -> str:
        """Keep a state; what it is called from now on. Raises Broken where it cannot be kept or read again."""
        unfinished = self.path / f"unfinished-{os.getpid()}-{trial}-{step}"
        try:
            save_safely(state, unfinished)
            size, digest = self._settled(unfinished)
            self._make_room(size)
            name = f"trial-{trial}-step-{step}-{digest}.pt"
            unfinished.replace(self.path / name)
            _settle_names(self.path)
        except BROKEN as error:
            raise Broken(f"trial {trial} cannot be kept after step {step}: {first_line(error)}") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return name

    def read(self, name: str, part: str = "") -> dict[str, Any]:
        """A state as it was kept, or of a directory the one in a file. Raises Broken for one that is not here, or not
        what was written."""
        file = self._file(name) / part
        if not file.is_file():
            raise Broken(f"the checkpoint {name} is not in {self.path}{part and f', or has no {part}'}")
        try:
            if self._digest(file) != (self._listed(file.parent)[part] if part else name.rpartition("-")[2][:-3]):
                raise Broken(f"the checkpoint {name} in {self.path} is not what was written")
            import torch

            found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except BROKEN as error:
            raise Broken(f"the checkpoint {name} in {self.path} cannot be read: {first_line(error)}") from error
        return found

    def write_directory(
        self, trial: int, step: int, fill: Callable[[Path], object], *, team: Alone | None = None
    ) -> str:
        """Keep what `fill` puts into an empty directory; what it is called from now on. Raises Broken.

        In a team all make this call, `fill` is called in each, and the directory is whole when all have filled it.
        """
        team, unfinished = team or Alone(), self.path / "unfinished"
        try:
            unfinished = team.first(lambda: self._empty(trial, step))
            team.each(lambda: fill(unfinished))
            name = team.first(lambda: self._whole(unfinished, trial, step, team.size))
        except BROKEN as error:
            raise Broken(f"trial {trial} cannot be kept after step {step}: {first_line(error)}") from error
        finally:
            if team.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
        return name

    def _empty(self, trial: int, step: int) -> Path:
        made = self.path / f"unfinished-{os.getpid()}-{trial}-{step}"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        return made

    def _whole(self, unfinished: Path, trial: int, step: int, processes: int) -> str:
        """Give a filled directory its list and its name."""
        found = {str(file.relative_to(unfinished)): self._settled(file)[1] for file in _files(unfinished)}
        (unfinished / LIST).write_text(json.dumps({"processes": processes, "files": found}, sort_keys=True))
        _, digest = self._settled(unfinished / LIST)
        self._make_room(_size(unfinished))
        name = f"trial-{trial}-step-{step}-{digest}"
        _delete(self.path / name)
        unfinished.replace(self.path / name)
        _settle_names(self.path)
        return name

    def directory(self, name: str, *, processes: int | None = None) -> Path:
        """Where a directory lies that is as it was written. Raises Broken for one that is not here, or is not.

        So it does for one that was not kept by so many `processes`: each goes on from what it has kept itself.
        """
        path = self._file(name)
        if not path.is_dir():
            raise Broken(f"the checkpoint {name} is not in {self.path}")
        try:
            found = {str(file.relative_to(path)): self._digest(file) for file in _files(path) if file != path / LIST}
            whole = found == self._listed(path)
        except BROKEN as error:
            raise Broken(f"the checkpoint {name} in {self.path} cannot be read: {first_line(error)}") from error
        if not whole:
            raise Broken(f"the checkpoint {name} in {self.path} is not what was written")
        if processes is not None and (had := kept_by(path)) != processes:
            raise Broken(f"the checkpoint {name} was kept by {had} processes, and this run has {processes}")
        return path

    def drop(self, names: Iterable[str] | None) -> None:
        """Delete checkpoints, as far as they are here; without names all of them, as the job is over."""
        for name in [file.name for file in self._all()] if names is None else names:
            if NAME.fullmatch(name):  # what other means have kept is theirs to delete
                _delete(self.path / name)
        if names is None:
            self._clear(0.0)
            with suppress(OSError):  # it is not empty, or another process has just done the same
                self.path.rmdir()

    def need(self, names: Iterable[str]) -> None:
        """Let checkpoints go after all that are here and not named, the last of them last."""
        now = time.time_ns()
        for place, name in enumerate(names):
            with suppress(FileNotFoundError, Broken):
                os.utime(self._file(name), ns=(now, now + place))

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise Broken(f"found {name[:80]!r}; a checkpoint of this folder is called trial-1-step-20-<digest>.pt")
        return self.path / name

    def _listed(self, path: Path) -> dict[str, str]:
        """The digests of a directory's files. Raises Broken for a list that is not its own."""
        if self._digest(path / LIST) != path.name.rpartition("-")[2]:
            raise Broken(f"the checkpoint {path.name} in {self.path} is not what was written")
        listed: dict[str, str] = json.loads((path / LIST).read_text())["files"]
        return listed

    def _all(self) -> list[Path]:
        with suppress(FileNotFoundError):  # another process may delete here what no trial needs, at any moment
            return [file for file in self.path.iterdir() if NAME.fullmatch(file.name)]
        return []

    def _taken(self) -> int:
        return sum(_size(file) for file in self._all())

    def _clear(self, seconds: float) -> None:
        """Delete what was begun and has not been changed for so long: whoever wrote it was killed."""
        with suppress(FileNotFoundError):  # another process has just done the same
            for file in list(self.path.glob("unfinished-*")):
                if time.time_ns() - max(_written_at(one) for one in [file, *_files(file)]) >= seconds * 1e9:
                    _delete(file)

    def _make_room(self, size: int) -> None:
        self._clear(LEFT_SECONDS)
        if size > self.room:
            raise ValueError(f"it has {size} bytes; the checkpoints in {self.path} may take {self.room}")
        files = sorted(self._all(), key=_written_at)
        taken = self._taken()
        while taken + size > self.room and files:
            oldest = files.pop(0)
            taken -= _size(oldest)
            log.warning("no room in %s: %s is deleted, and its trial will begin again", self.path, oldest.name)
            _delete(oldest)

    def _settled(self, file: Path) -> tuple[int, str]:
        """Size and digest of a file that is on the disk for good."""
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        return file.stat().st_size, self._digest(file)

    @staticmethod
    def _digest(file: Path) -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:32]


def kept_by(path: Path) -> int:
    """How many processes have kept a directory."""
    return int(json.loads((path / LIST).read_text())["processes"])


def save_safely(state: Mapping[str, Any], file: Path) -> None:
    """Write a state that can be read again without running code. Raises what torch raises for any other."""
    import torch

    torch.save(dict(state), file)
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        what = found[1] if (found := re.search(r"GLOBAL (\S+)", str(error))) else first_line(error)
        raise TypeError(
            f"found {what} in what it holds; accepted are tensors, arrays, numbers and texts, and lists, tuples and "
            "dicts of such, so that reading it runs no code"
        ) from error


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # it has just been deleted
        return sum(file.stat().st_size for file in ([path] if path.is_file() else _files(path)))
    return 0


def _written_at(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _settle_names(path: Path) -> None:
    """What was renamed in a folder is on the disk for good."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error) or type(error).__name__).splitlines()[0]
