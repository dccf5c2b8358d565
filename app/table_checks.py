"""A job of the task `tabular` against its table, before it is stored: with the reader and the checks of the worker.

An uploaded dataset was described when it came; it is read again only where the job says how, or where an older version
had described it. A file of the data folder is read if it lies here and is not too large; else the worker says it.
"""

from functools import lru_cache
from pathlib import Path, PurePosixPath

from sqlalchemy.orm import Session

from lrtune.errors import Rejection, UnusableFile
from lrtune.store import datasets
from lrtune.uploads import fitness, tables
from lrtune.uploads.delimited import unpacked
from lrtune.uploads.options import Options
from lrtune.uploads.reading import reading
from lrtune.wire.datasets import FOLDER, Description
from lrtune.wire.job import AdmittedJob
from lrtune.wire.tasks import Split, TabularParams

LARGEST = 16 * 1024 * 1024  # bytes of a file that is read while a job, and who else writes, waits for the answer


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
        other = _described(tx, params, named, data_dir) if named else None
    except UnusableFile as error:
        return [{"pointer": "/validation/dataset", "detail": str(error)}], None
    if table is None:
        return [], None
    target = fitness.column_of(table, params.target)
    classes = target is not None and fitness.is_classes(target, params.kind)
    return fitness.wrong(params, table, other), "classification" if classes else "regression"


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
    try:
        stat = (data_dir / file).stat()
        if not (data_dir / file).is_file() or max(stat.st_size, unpacked(data_dir / file)) > LARGEST:
            return None
    except (OSError, ValueError):
        return None
    found = _read(data_dir / file, options, stat.st_mtime_ns)
    if isinstance(found, str):
        raise UnusableFile(found)
    return found


@lru_cache(maxsize=32)
def _read(path: Path, options: Options, changed: int) -> Description | str:  # noqa: ARG001
    """Read once for many jobs, and again when the file has changed; a sentence where it cannot be read."""
    try:
        with reading("the file cannot be read as a table"):
            return tables.describe(path, options)
    except UnusableFile as error:
        return str(error)
