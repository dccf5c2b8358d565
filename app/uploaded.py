"""A job that names uploaded datasets: each name becomes the file of these very bytes, if its task can use them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.problems import invalid
from lrtune.errors import Rejection, UnusableFile
from lrtune.space import shown
from lrtune.store import datasets
from lrtune.uploads.places import below
from lrtune.wire.datasets import FOLDER, TAKEN_BY, Dataset
from lrtune.wire.job import JobSpec
from lrtune.wire.people import ADMIN


def pinned(
    tx: Session, spec: JobSpec, data_dir: Path, *, hold: bool = True, mine: str = ADMIN, only: str | None = None
) -> JobSpec:
    """The job with its datasets by file, where it named uploaded ones. A file of its own in the folder comes first.

    With `hold` nobody takes a dataset away until the transaction ends. Who sees `only` their own finds no others', also
    not by the name of a file.
    """
    params, wrong = dict(spec.task.params), list[Rejection]()
    find = partial(_find, tx, data_dir=data_dir, hold=hold, mine=mine, only=only)
    if only is not None:
        wrong += _others(tx, params, data_dir, only)
    found = find(params.get("dataset"))
    if found is not None:
        wrong += _wrong_kind(spec, found, "/task/params/dataset") or _unanswered(spec, found)
        params["dataset"] = found.file
    split: Any = params.get("validation")
    other = find(split.get("dataset")) if isinstance(split, dict) else None
    if other is not None:
        wrong += _wrong_kind(spec, other, "/task/params/validation/dataset")
        params["validation"] = {**split, "dataset": other.file}
    if wrong:
        raise invalid(wrong)
    return spec.model_copy(update={"task": spec.task.model_copy(update={"params": params})})


def _others(tx: Session, params: Mapping[str, Any], data_dir: Path, only: str) -> list[Rejection]:
    """The parameters that name the file of somebody else's dataset, or a folder with such files."""
    split = params.get("validation")
    named = {f"/task/params/{name}": params.get(name) for name in ("dataset", "model")}
    named["/task/params/validation/dataset"] = split.get("dataset") if isinstance(split, dict) else None
    return [
        {"pointer": pointer, "detail": f"found no {shown(name)} in the data folder"}
        for pointer, name in named.items()
        if isinstance(name, str) and "\0" not in name and _of_others(tx, name, data_dir, only)
    ]


def _of_others(tx: Session, name: str, data_dir: Path, only: str) -> bool:
    if not _is_there(data_dir, name):
        return False
    path, uploads = below(data_dir, name).resolve(), (data_dir / FOLDER).resolve()
    if path.parent == uploads:
        return datasets.find(tx, path.stem, only=only) is None
    return path.is_relative_to(uploads) or uploads.is_relative_to(path)


def _find(tx: Session, name: Any, data_dir: Path, *, hold: bool, mine: str, only: str | None) -> Dataset | None:
    if not isinstance(name, str) or "\0" in name or _is_there(data_dir, name):
        return None
    return datasets.find(tx, name, hold=hold, mine=mine, only=only)


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
