"""A job that names an uploaded dataset: the name becomes the file of these very bytes, if its task can use them."""

from pathlib import Path

from sqlalchemy.orm import Session

from app.problems import invalid
from lrtune.errors import Rejection
from lrtune.space import shown
from lrtune.store import datasets
from lrtune.wire.datasets import TAKEN_BY, Dataset
from lrtune.wire.job import JobSpec

SHOWN = 20  # column names that an error lists


def pinned(tx: Session, spec: JobSpec, data_dir: Path, *, hold: bool = True) -> JobSpec:
    """The job with its dataset by file, where it named an uploaded one. A file of its own in the folder comes first.

    With `hold` nobody takes the dataset away until the transaction ends.
    """
    name = spec.task.params.get("dataset")
    if not isinstance(name, str) or _is_there(data_dir, name):
        return spec
    found = datasets.find(tx, name, hold=hold) if "\0" not in name else None
    if found is None:
        return spec
    if wrong := _wrong_kind(spec, found) or _wrong_target(spec, found) or _unanswered(spec, found):
        raise invalid([wrong])
    params = {**spec.task.params, "dataset": found.file}
    return spec.model_copy(update={"task": spec.task.model_copy(update={"params": params})})


def _is_there(data_dir: Path, name: str) -> bool:
    try:
        return (data_dir / name).exists()
    except (OSError, ValueError):
        return False


def _wrong_kind(spec: JobSpec, found: Dataset) -> Rejection | None:
    kinds = TAKEN_BY.get(spec.task.name, tuple(type(found.kind)))
    if found.kind in kinds:
        return None
    detail = f"{found.name!r} is {found.kind}; the task {spec.task.name} reads {' and '.join(kinds)}"
    return {"pointer": "/task/params/dataset", "detail": detail}


def _unanswered(spec: JobSpec, found: Dataset) -> Rejection | None:
    """A parameter that the file makes necessary, because nothing in it tells."""
    for name, why in found.asks.items():
        if spec.task.params.get(name, "auto") == "auto":
            return {"pointer": f"/task/params/{name}", "detail": f"found none; of {found.name!r} {why}"}
    return None


def _wrong_target(spec: JobSpec, found: Dataset) -> Rejection | None:
    """A target that no column has, or that has nothing to tell apart."""
    target = spec.task.params.get("target", -1)
    if spec.task.name != "tabular" or not found.header or spec.task.params.get("header") is False:
        return None
    names = [column.name for column in found.columns]
    place = names.index(target) if target in names else target
    if not isinstance(place, int) or isinstance(place, bool) or not -len(names) <= place < len(names):
        some = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        detail = f"found {shown(target)}; {found.name!r} has the columns {some}"
        return {"pointer": "/task/params/target", "detail": detail}
    if found.columns[place].distinct in (0, 1):
        what = "has no values" if found.columns[place].distinct == 0 else "is the same in every row"
        return {"pointer": "/task/params/target", "detail": f"{names[place]!r} {what}; nothing can be learned from it"}
    return None
