"""A job that names uploaded datasets: each name becomes the file of these very bytes, if its task can use them."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.problems import invalid
from lrtune.errors import Rejection, UnusableFile
from lrtune.store import datasets
from lrtune.uploads.places import below
from lrtune.wire.datasets import TAKEN_BY, Dataset
from lrtune.wire.job import JobSpec


def pinned(tx: Session, spec: JobSpec, data_dir: Path, *, hold: bool = True) -> JobSpec:
    """The job with its datasets by file, where it named uploaded ones. A file of its own in the folder comes first.

    With `hold` nobody takes a dataset away until the transaction ends.
    """
    params, wrong = dict(spec.task.params), list[Rejection]()
    found = _find(tx, params.get("dataset"), data_dir, hold=hold)
    if found is not None:
        wrong += _wrong_kind(spec, found, "/task/params/dataset") or _unanswered(spec, found)
        params["dataset"] = found.file
    split: Any = params.get("validation")
    other = _find(tx, split.get("dataset"), data_dir, hold=hold) if isinstance(split, dict) else None
    if other is not None:
        wrong += _wrong_kind(spec, other, "/task/params/validation/dataset")
        params["validation"] = {**split, "dataset": other.file}
    if wrong:
        raise invalid(wrong)
    return spec.model_copy(update={"task": spec.task.model_copy(update={"params": params})})


def _find(tx: Session, name: Any, data_dir: Path, *, hold: bool) -> Dataset | None:
    if not isinstance(name, str) or "\0" in name or _is_there(data_dir, name):
        return None
    return datasets.find(tx, name, hold=hold)


def _is_there(data_dir: Path, name: str) -> bool:
    try:
        return below(data_dir, name).exists()
    except UnusableFile:
        return False


def _wrong_kind(spec: JobSpec, found: Dataset, pointer: str) -> list[Rejection]:
    kinds = TAKEN_BY.get(spec.task.name, tuple(type(found.kind)))
    if found.kind in kinds:
        return []
    detail = f"{found.name!r} is {found.kind}; the task {spec.task.name} reads {' and '.join(kinds)}"
    return [{"pointer": pointer, "detail": detail}]


def _unanswered(spec: JobSpec, found: Dataset) -> list[Rejection]:
    """The parameters that a file makes necessary, because nothing in it tells."""
    asked = {name: why for name, why in found.asks.items() if spec.task.params.get(name, "auto") == "auto"}
    return [
        {"pointer": f"/task/params/{name}", "detail": f"found none; of {found.name!r} {why}"}
        for name, why in asked.items()
    ]
