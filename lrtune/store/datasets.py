"""Uploaded datasets: what was found in them stands here, their bytes lie on disk."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime

from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lrtune.errors import DatasetInUse, NameTaken, NotYours, UnknownDataset
from lrtune.store import audit_log, lookup
from lrtune.store.database import Parts, clock
from lrtune.store.tables import DatasetRow, JobRow
from lrtune.wire.datasets import FOLDER, Dataset, DatasetSummary, Description, Kind, file_of
from lrtune.wire.people import ADMIN, Caller
from lrtune.wire.results import OVER, Page

# What a job says of the files that it names.
_PARAMS = Parts(JobRow.spec)["task"]["params"]
_FILE = re.compile(rf"{FOLDER}/([0-9a-f]{{64}})\.[a-z]+")
_NAMED = {
    "dataset": _PARAMS["dataset"].as_string(),
    "validation": _PARAMS["validation"]["dataset"].as_string(),
}


def add(
    tx: Session,
    description: Description,
    *,
    digest: str,
    name: str,
    kind: Kind,
    size: int,
    owner: str = ADMIN,
    put: Callable[[str], object],
    now: datetime | None = None,
) -> tuple[Dataset, bool]:
    """Keep a dataset of `owner`; (the dataset, whether it is new). The same bytes come out as they are known.

    `put` moves the bytes to their place, while nobody else can add or remove them. Raises NameTaken.
    """
    row = DatasetRow(id=digest, name=name, kind=kind, bytes=size, description=description.model_dump(mode="json"))
    row.owner, row.created_at = owner, now or clock(tx)
    try:
        with tx.begin_nested():
            tx.add(row)
        new = True
    except IntegrityError:
        same = select(DatasetRow).where(DatasetRow.owner == owner, DatasetRow.id == digest)
        known = tx.scalars(same.with_for_update()).one_or_none()
        if known is None:
            taken = f"other data is called {name!r} already; choose another name, or remove that data first"
            raise NameTaken(taken) from None
        row, new = known, False
        if known.description.get("reader", 0) < description.reader:  # an older version had read it
            known.description = description.model_dump(mode="json")
    if new:
        audit_log.add(tx, owner, "dataset-uploaded", digest, now=now, name=name, bytes=size)
    dataset = _view(row)
    put(dataset.file)
    return dataset, new


def get(tx: Session, dataset: str, *, mine: str = ADMIN, only: str | None = None) -> Dataset:
    """A dataset by its id or its name, as `find` finds it. Raises UnknownDataset."""
    found = find(tx, dataset, mine=mine, only=only)
    if found is None:
        raise UnknownDataset(f"there is no dataset {dataset[:60]!r}")
    return found.model_copy(update={"jobs": uses(tx, [found.file], only=only)[found.file]})


def uses(tx: Session, files: Collection[str], *, only: str | None = None) -> Counter[str]:
    """How many jobs name each of these files, to train or to validate on; of everybody's, or `only` somebody's."""
    found, columns = Counter[str](), [column.label(name) for name, column in _NAMED.items()]
    rows = select(*columns, func.count().label("many")).where(or_(*(one.in_(files) for one in _NAMED.values())))
    rows = rows if only is None else rows.where(JobRow.owner == only)
    for row in tx.execute(rows.group_by(*columns)):
        for file in {row.dataset, row.validation} & set(files):
            found[file] += row.many
    return found


def find(
    tx: Session, dataset: str, *, hold: bool = False, mine: str = ADMIN, only: str | None = None
) -> Dataset | None:
    """A dataset by its id or its name, if there is one; `hold` keeps it until the transaction ends.

    Of several that others call the same it is `mine`, else the oldest; where `only` somebody's are seen, theirs.
    """
    query = select(DatasetRow).where(or_(DatasetRow.id == dataset, DatasetRow.name == dataset))
    query = query.where(*([DatasetRow.owner == only] if only is not None else []))
    query = query.order_by(DatasetRow.id != dataset, DatasetRow.owner != mine, DatasetRow.seq).limit(1)
    row = tx.scalars(query.with_for_update(read=True) if hold else query).one_or_none()
    return None if row is None else _view(row)


def called(tx: Session, said: str, *, job: str) -> str:
    """A sentence of a worker's with uploaded files as the job's owner called them, else as others do.

    Who has removed theirs meanwhile does not hear who has the same: what others have they may not be let see.
    """
    found = {match[1]: match[0] for match in _FILE.finditer(said)}
    owner = tx.scalar(select(JobRow.owner).where(JobRow.id == job)) if found else None
    for digest, file in found.items():
        known = find(tx, digest, only=owner)
        name = known.name if known else audit_log.name(tx, owner or ADMIN, "dataset-uploaded", digest)
        if not name and (others := find(tx, digest)) is not None:
            name = others.name
        said = said.replace(file, name or file)
    return said


def names(tx: Session, *, limit: int, only: str | None = None) -> tuple[list[str], int]:
    """What datasets are called, newest first, as many as the limit; and how many there are. `only` somebody's."""
    whose = [DatasetRow.owner == only] if only is not None else []
    found = tx.scalars(select(DatasetRow.name).where(*whose).order_by(DatasetRow.seq.desc()).limit(limit))
    return [*found], int(tx.scalar(select(func.count()).select_from(DatasetRow).where(*whose)) or 0)


def taken(tx: Session, owner: str) -> int:
    """How many bytes somebody has uploaded."""
    return int(tx.scalar(select(func.sum(DatasetRow.bytes)).where(DatasetRow.owner == owner)) or 0)


def page(
    tx: Session, *, limit: int, cursor: str | None, owner: str | None = None, only: str | None = None
) -> Page[DatasetSummary]:
    """Datasets, newest first, without what was found in them, which may take megabytes. Raises Invalid."""
    query = select(DatasetRow).order_by(DatasetRow.seq.desc()).limit(limit + 1)
    query = query.where(*(DatasetRow.owner == one for one in (owner, only) if one is not None))
    if cursor is not None:
        query = query.where(DatasetRow.seq < lookup.number(cursor))
    found = [(row.seq, _summary(row)) for row in tx.scalars(query.execution_options(yield_per=1))]
    more = lookup.cursor(found[limit - 1][0]) if len(found) > limit else None
    counts = uses(tx, [summary.file for _, summary in found], only=only) if found else Counter[str]()
    return Page(items=[one.model_copy(update={"jobs": counts[one.file]}) for _, one in found[:limit]], next=more)


def _summary(row: DatasetRow) -> DatasetSummary:
    known = {name: getattr(row, name) for name in ("id", "name", "owner", "kind", "bytes", "created_at")}
    said = {"rows": row.description["rows"], "columns": len(row.description.get("columns", ()))}
    return DatasetSummary(**known, **said, file=file_of(row.id, Kind(row.kind)))


def remove(
    tx: Session,
    dataset: str,
    *,
    unlink: Callable[[str], object],
    by: Caller,
    only: str | None = None,
) -> None:
    """Forget a dataset, and its bytes where nobody else has uploaded the same.

    Raises UnknownDataset, NotYours, DatasetInUse.
    """
    found = get(tx, dataset, mine=by.person, only=only)
    if not by.may_change(found.owner):
        raise NotYours(f"{found.name!r} belongs to {found.owner}; only they, or an admin, can remove it")
    owners = set(tx.scalars(select(DatasetRow.owner).where(DatasetRow.id == found.id).with_for_update()))
    if owners == {found.owner}:
        _require_unused(tx, found)
    this = DatasetRow.id == found.id, DatasetRow.owner == found.owner
    tx.execute(delete(DatasetRow).where(*this))
    audit_log.add(tx, by.person, "dataset-removed", found.id, name=found.name, owner=found.owner)
    if owners == {found.owner}:
        unlink(found.file)


def _require_unused(tx: Session, found: Dataset) -> None:
    """Raise DatasetInUse where a job that is not over needs a file."""
    named = or_(*(one == found.file for one in _NAMED.values()))
    needing = tx.scalars(select(JobRow.id).where(JobRow.state.not_in(OVER), named).limit(1)).first()
    if needing:
        raise DatasetInUse(f"{needing} needs this dataset; cancel the job, or wait for its end")


def _view(row: DatasetRow) -> Dataset:
    kind = Kind(row.kind)
    return Dataset(
        **Description.model_validate(row.description).model_dump(),
        id=row.id,
        name=row.name,
        owner=row.owner,
        kind=kind,
        bytes=row.bytes,
        file=file_of(row.id, kind),
        created_at=row.created_at,
    )
