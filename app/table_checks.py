"""A job of the task `tabular` against its table, before it is stored: with the reader and the checks of the worker.

An uploaded dataset was described when it came; it is read again only where the job says how, or where an older version
had described it. A file of the data folder is read if it lies here and is not too large; else the worker says it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from sqlalchemy.orm import Session

from lrtune.errors import Rejection, UnusableFile
from lrtune.store import datasets
from lrtune.uploads import fitness, tables
from lrtune.uploads.delimited import unpacked
from lrtune.uploads.options import Options
from lrtune.uploads.places import below
from lrtune.uploads.reading import reading
from lrtune.wire.datasets import FOLDER, Description
from lrtune.wire.job import AdmittedJob
from lrtune.wire.tasks import Split, TabularParams

LARGEST = 16 * 1024 * 1024  # bytes of a file that is read while a job waits for the answer


def checked(tx: Session, params: TabularParams, data_dir: Path) -> tuple[list[Rejection], str | None]:
    """What is wrong (pointers into the parameters), and whether the target is learned by classification or regression.

    None where nobody can tell from here.
    """
    split = params.validation
    named = split.dataset if isinstance(split, Split) else None
    try:
        table = _described(tx, params, params.dataset, data_dir)
    except UnusableFile as error:
        return [{"pointer": "/dataset", "detail": str(error)}], None
    try:
        pair = _pair(params, named, data_dir) if named else None
        other = pair[1].description if pair else None
    except UnusableFile as error:
        return [{"pointer": "/validation/dataset", "detail": str(error)}], None
    if table is None:
        return [], None
    target = fitness.column_of(table, params.target)
    classes = target is not None and fitness.is_classes(target, params.kind)
    found = fitness.wrong(params, table, other) or (fitness.unseen(params, *pair) if pair else [])
    return found, "classification" if classes else "regression"


def _pair(params: TabularParams, named: str, data_dir: Path) -> tuple[tables.Table, tables.Table] | None:
    """The dataset to train on and the one to validate on, read as the first is; None where one cannot be seen here."""
    options = Options.of(params)
    mine, its = _seen(data_dir, params.dataset), _seen(data_dir, named)
    if mine is None or its is None:
        return None
    table, other = _read(mine, options), _read(its, options, mine)
    if isinstance(table, str) or isinstance(other, str):
        raise UnusableFile(other if isinstance(other, str) else str(table))
    return table, other


def notes(tx: Session, spec: AdmittedJob, data_dir: Path) -> list[str]:
    """What a job of this task takes for granted about its table, as far as it can be seen from here."""
    if spec.task.name != "tabular":
        return []
    params = TabularParams.model_validate(spec.task.params)
    table = _described(tx, params, params.dataset, data_dir)
    return [] if table is None else fitness.notes(params, table)


def _described(tx: Session, params: TabularParams, file: str, data_dir: Path) -> Description | None:
    """What a file holds when it is read as the job says; None where it cannot be seen from here."""
    path, options = PurePosixPath(file), Options.of(params)
    if path.parent == PurePosixPath(FOLDER) and (known := datasets.find(tx, path.stem)) is not None:
        names = tuple(column.name for column in known.columns)
        if known.reader == tables.READER and options.leaves_open(names, header=known.header):
            return known
    seen = _seen(data_dir, file)
    if seen is None:
        return None
    found = _read(seen, options)
    if isinstance(found, str):
        raise UnusableFile(found)
    return found.description


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was at a time (nanoseconds)."""

    path: Path
    changed: int


def _seen(data_dir: Path, name: str) -> _Read | None:
    """A file of the data folder; None where it does not lie here or is too large to be read while a job waits.

    Raises UnusableFile for a link that leads out of it.
    """
    path = below(data_dir, name)
    try:
        stat = path.stat()
        if not path.is_file() or max(stat.st_size, unpacked(path)) > LARGEST:
            return None
    except (OSError, ValueError):
        return None
    return _Read(path, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _read(file: _Read, options: Options, like: _Read | None = None) -> tables.Table | str:
    """Read once for many jobs, and again when the file has changed; a sentence where it cannot be read."""
    try:
        with reading("the file cannot be read as a table"):
            known = _read(like, options) if like else None
            return tables.understood(file.path, options, like=None if isinstance(known, str) else known)
    except UnusableFile as error:
        return str(error)
