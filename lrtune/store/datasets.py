"""Uploaded datasets: what was found in them stands here, their bytes lie on disk."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lrtune.errors import DatasetInUse, NameTaken, UnknownDataset
from lrtune.store import lookup
from lrtune.store.database import clock
from lrtune.store.tables import DatasetRow, JobRow
from lrtune.wire.datasets import Dataset, DatasetSummary, Description, Kind, file_of
from lrtune.wire.people import ADMIN
from lrtune.wire.results import OVER, Page


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
    dataset = _view(row)
    put(dataset.file)
    return dataset, new


def get(tx: Session, dataset: str) -> Dataset:
    """A dataset by its id or its name. Raises UnknownDataset."""
    found = find(tx, dataset)
    if found is None:
        raise UnknownDataset(f"there is no dataset {dataset[:60]!r}")
    return found


def find(tx: Session, dataset: str, *, hold: bool = False) -> Dataset | None:
    """A dataset by its id or its name, if there is one; `hold` keeps it until the transaction ends."""
    query = select(DatasetRow).where(or_(DatasetRow.id == dataset, DatasetRow.name == dataset)).limit(2)
    rows = tx.scalars(query.with_for_update(read=True) if hold else query).all()
    return next((_view(row) for row in sorted(rows, key=lambda row: row.id != dataset)), None)


def page(tx: Session, *, limit: int, cursor: str | None) -> Page[DatasetSummary]:
    """Datasets, newest first, without what was found in them, which may take megabytes. Raises Invalid."""
    query = select(DatasetRow).order_by(DatasetRow.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(DatasetRow.seq < lookup.number(cursor))
    found = [(row.seq, _summary(row)) for row in tx.scalars(query.execution_options(yield_per=1))]
    more = lookup.cursor(found[limit - 1][0]) if len(found) > limit else None
    return Page(items=[summary for _, summary in found[:limit]], next=more)


def _summary(row: DatasetRow) -> DatasetSummary:
    known = {name: getattr(row, name) for name in ("id", "name", "kind", "bytes", "created_at")}
    said = {"rows": row.description["rows"], "columns": len(row.description.get("columns", ()))}
    return DatasetSummary(**known, **said, file=file_of(row.id, Kind(row.kind)))


def remove(tx: Session, dataset: str, *, unlink: Callable[[str], object]) -> None:
    """Forget a dataset and its bytes. Raises UnknownDataset, DatasetInUse."""
    found = get(tx, dataset)
    tx.execute(select(DatasetRow.seq).where(DatasetRow.id == found.id).with_for_update())
    params = JobRow.spec["task"]["params"]
    named = or_(*(one.as_string() == found.file for one in (params["dataset"], params["validation"]["dataset"])))
    needing = tx.scalars(select(JobRow.id).where(JobRow.state.not_in(OVER), named).limit(1)).first()
    if needing:
        raise DatasetInUse(f"{needing} needs this dataset; cancel the job, or wait for its end")
    tx.execute(delete(DatasetRow).where(DatasetRow.id == found.id))
    unlink(found.file)


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
