"""What differs between jobs, in what they ask for: a row for each field, for the page and the command line."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from lrtune.wire.datasets import FOLDER, Dataset, DatasetSummary
from lrtune.wire.job import AdmittedJob

NAMED = {"optimizers": "name", "schedules": "family"}  # lists whose parts have names
LISTS = {"horizons"}  # of numbers, but no range where there are two; nor is any list in a task's parameters
ABSENT = "–"


class Row(NamedTuple):
    """One field that is not the same in all jobs, with its value in each, in words."""

    field: str
    values: list[str]


def uploads(specs: Sequence[AdmittedJob]) -> list[str]:
    """The ids of the uploaded datasets that jobs are about."""
    paths = [PurePosixPath(words) for one in _all(specs) for words in one.values()]
    return list(dict.fromkeys(path.stem for path in paths if str(path.parent) == FOLDER))


def names(found: Iterable[Dataset | DatasetSummary]) -> dict[str, str]:
    """What people call the files of datasets; of several of one name each with the beginning of its id."""
    listed = tuple(found)
    several = Counter(one.name for one in listed)
    return {one.file: one.name if several[one.name] == 1 else f"{one.name} ({one.id[:8]})" for one in listed}


def differing(specs: Sequence[AdmittedJob], named: Mapping[str, str]) -> list[Row]:
    """The fields in which jobs differ, names apart; fields that a job does not have are –, `named` files by name."""
    flat = _all(specs)
    fields = dict.fromkeys(field for one in flat for field in one)
    rows = [Row(field, [one.get(field, ABSENT) for one in flat]) for field in fields]
    return [Row(row.field, [named.get(one, one) for one in row.values]) for row in rows if len(set(row.values)) > 1]


def measures(specs: Sequence[AdmittedJob], named: Mapping[str, str]) -> list[str]:
    """What each job's value is of, `named` files by name; values compare where this is the same."""
    return [f"{_data(spec, named)}, {spec.metric.name} after {_length(spec)}" for spec in specs]


def _all(specs: Sequence[AdmittedJob]) -> list[dict[str, str]]:
    return [dict(_flat(spec.model_dump(mode="json", exclude={"name"}))) for spec in specs]


def _data(spec: AdmittedJob, named: Mapping[str, str]) -> str:
    data = spec.task.params.get("dataset")
    return f"{spec.task.name} on {named.get(data, data)}" if data else spec.task.name


def _length(spec: AdmittedJob) -> str:
    horizon = spec.horizon
    return f"{horizon.epochs:g} epochs" if horizon.steps is None else f"{horizon.steps:,} steps"


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, one in value.items():
        field = f"{above}{name}"
        if isinstance(one, Mapping) and one:
            yield from _flat(one, f"{field}.")
        elif name in NAMED and not above:
            yield from _parts(field, one, NAMED[name])
        elif one is not None and one != {}:
            yield field, _words(one, ranges=not field.startswith("task.") and field not in LISTS)


def _parts(field: str, listed: Sequence[Mapping[str, Any]], tag: str) -> Iterator[tuple[str, str]]:
    """Each part of a list under its own name, with what the job says of it."""
    for part in listed:
        said = {name: value for name, value in part.items() if name != tag and value is not None}
        yield f"{field}.{part[tag]}", ", ".join(f"{name} {_words(one)}" for name, one in said.items()) or "as usual"


def _words(value: Any, *, ranges: bool = True) -> str:
    if ranges and isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value):
        return f"{value[0]:g} to {value[1]:g}"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
