"""Whether a table can be learned from as a job says: asked by the server before it takes the job, and by the worker.

Each rejection's pointer is relative to the task's parameters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lrtune.errors import Rejection
from lrtune.space import shown
from lrtune.uploads.tables import Table
from lrtune.wire.datasets import Column, Description
from lrtune.wire.tasks import Split, TabularParams

MOST_CLASSES = 1000
LEAST_ROWS = 10
SHOWN = 40  # column names that an error lists
VALIDATION = ("validation", "valid", "val", "dev", "eval", "evaluation", "holdout")
TEST = ("test", "testing")
TRAIN = ("train", "training", "fit")
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")
_ENDS = r"(?:[ _.-]?(?:sets?|data|flag|mask|rows?|samples?|split))?"
_NAMED = r"(?:(?:is|in|for|use)[ _.-]?)?(?:{})" + _ENDS
NAMED_TRAIN = re.compile(_NAMED.format("|".join(TRAIN)), re.IGNORECASE)
NAMED_HELD = re.compile(_NAMED.format("|".join((*VALIDATION, *TEST, "hold[ _-]out", "held[ _-]?out"))), re.IGNORECASE)
DAY = 86400.0  # a date that is a target is learned in days


def column_of(table: Description, name: str | int) -> Column | None:
    """A column by its name, or by its place."""
    columns = table.columns
    if isinstance(name, str):
        return next((one for one in columns if one.name == name), None)
    return columns[name] if -len(columns) <= name < len(columns) else None


def is_classes(column: Column, kind: str) -> bool:
    """Whether a target is learned as classes."""
    if kind != "auto":
        return kind == "classification"
    return column.type == "text" or column.type == "flag" or (column.whole and len(column.counts) > 0)


def features(table: Description, params: TabularParams) -> list[Column]:
    """The columns that are learned from: all but the target, what says how rows are split, and what says nothing."""
    target, split = column_of(table, params.target), params.validation
    apart = {split.column, split.groups} if isinstance(split, Split) else set()
    return [one for one in table.columns if one is not target and not one.left_out and one.name not in apart]


def time_of(table: Description, params: TabularParams) -> str | None:
    """The column by which the last rows are the last: the one said, else the one of dates; None is the file's order."""
    split = params.validation
    if isinstance(split, Split) and split.by:
        return split.by
    dates = [one.name for one in features(table, params) if one.type == "date"]
    return dates[0] if len(dates) == 1 else None


def notes(params: TabularParams, table: Description) -> list[str]:
    """What is taken for granted: which column the target is, how it is learned, rows without it, classes of one row."""
    target = column_of(table, params.target)
    if target is None:
        return []
    by_place = not isinstance(params.target, str)
    last = by_place and target is table.columns[-1]
    where = ", the last column" if last else f", the column at the place {params.target}" if by_place else ""
    classes = is_classes(target, params.kind)
    found = [f"target: {target.name!r}{where}, learned by {'classification' if classes else 'regression'}"]
    if target.missing:
        none, out = ("have none", "are") if target.missing > 1 else ("has none", "is")
        found.append(f"target: {target.missing:,} of {table.rows:,} rows {none}, and {out} left out")
    single = [value for value, count in target.counts.items() if count == 1] if classes else []
    if single:
        what = "is a class of one row" if len(single) == 1 else "are classes of one row each"
        found.append(f"target: {_listed(single)} {what}, which cannot be both learned and measured")
    return found


def wrong(params: TabularParams, table: Description, other: Description | None = None) -> list[Rejection]:
    """What stands against learning from a table; `other` is the dataset to validate on, where the job names one."""
    target = column_of(table, params.target)
    if target is None:
        return [_reject("target", f"found {shown(params.target)}; {_accepted(table)}")]
    found = [*_target(params, table, target), *_features(params, table, target)]
    if isinstance(params.validation, Split):
        found += _split(params.validation, table, target)
        found += _times(params, params.validation, table)
    if other is not None and not found:
        found += _other(params, table, target, other)
    return found


def _reject(field: str, detail: str) -> Rejection:
    return {"pointer": f"/{field}", "detail": detail}


def _accepted(table: Description) -> str:
    names = ", ".join(one.name for one in table.columns[:SHOWN]) + (", ..." if len(table.columns) > SHOWN else "")
    count = len(table.columns)
    return f"accepted is one of the columns {names}, or a position from {-count} to {count - 1}"


def _target(params: TabularParams, table: Description, target: Column) -> Iterator[Rejection]:
    name, labelled = target.name, table.rows - target.missing
    if target.distinct in (0, 1):
        what = "has no values" if target.distinct == 0 else f"is the same in every row ({target.why})"
        yield _reject("target", f"{name!r} {what}; nothing can be learned from it")
    elif labelled < LEAST_ROWS:
        yield _reject("dataset", f"it has {labelled} row{'s' * (labelled != 1)} with a target; {LEAST_ROWS} are needed")
    elif is_classes(target, params.kind):
        yield from _classes(target, labelled)
    elif target.type == "text":
        yield _reject("target", f"{name!r} is not of numbers, but {target.why}; regression needs numbers")
    elif target.unfit:
        yield _reject("target", f"{name!r} cannot be learned: {target.unfit}")


def _classes(target: Column, labelled: int) -> Iterator[Rejection]:
    classes = target.distinct
    if classes is None or classes > MOST_CLASSES:
        many = f"more than {MOST_CLASSES}" if classes is None else classes
        yield _reject("target", f"{target.name!r} has {many} classes, at most {MOST_CLASSES} can be learned")
    elif classes > 2 and classes * 2 > labelled:
        hint = "name another target"
        if target.type == "text":
            hint += ", or, where it is to be numbers, say how they are written (`decimal`, `missing`)"
        yield _reject(
            "target",
            f"{target.name!r} has {classes} classes in {labelled} rows, too many to learn what they have in common "
            f"({target.why}); {hint}",
        )


def _features(params: TabularParams, table: Description, target: Column) -> Iterator[Rejection]:
    used = features(table, params)
    if not used:
        detail = f"{target.name!r} is the only column that says something; at least one more is needed to learn from"
        yield _reject("target", detail)
    for one in used:
        if one.unfit:
            what = "write such cells empty, name them in `missing`, or leave the column out"
            yield _reject("dataset", f"the column {one.name!r} cannot be trained on: {one.unfit}; {what}")


# The split -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sides:
    """What a column says where a row is to be trained on, and where it is to be validated on."""

    train: frozenset[str]
    validation: frozenset[str]


def sides(column: Column, split: Split) -> Sides | str:
    """Which values of a column mark which side; a sentence where they do not."""
    if not column.counts:
        return f"{column.name!r} has too many different values; accepted is a column of few words, one of which marks"
    known = {value: value.casefold() for value in column.counts}
    values = ", ".join(map(repr, column.counts))
    if split.value is not None:
        wanted = str(split.value).casefold()
        if column.type != "text":
            wanted = {"true": "1", "false": "0"}.get(wanted, wanted)
        marked = {value for value, plain in known.items() if plain == wanted}
        train = set(known) - marked
        if not marked:
            return f"no row of {column.name!r} has {wanted!r}; it has {values}"
    else:
        yes, no = _flagged(column.name)
        marked = {value for value, plain in known.items() if plain in (*VALIDATION, *yes)}
        marked = marked or {value for value, plain in known.items() if plain in TEST}
        train = {value for value, plain in known.items() if plain in (*TRAIN, *no)}
        other = [value for value, plain in known.items() if value not in marked | train and plain not in TEST]
        if not marked or other:
            return f"{column.name!r} has {values}; say with `value` which of them marks the rows to validate on"
    if not train and not column.missing:
        return f"{column.name!r} has {values}, which leaves no row to train on"
    return Sides(frozenset(train), frozenset(marked))


def _flagged(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What marks the rows to validate on, and those to train on, in a column of flags: its name says it, or nobody."""
    if NAMED_TRAIN.fullmatch(name):
        return FALSE, TRUE
    return (TRUE, FALSE) if NAMED_HELD.fullmatch(name) else ((), ())


def _split(split: Split, table: Description, target: Column) -> Iterator[Rejection]:
    for field, name in (("column", split.column), ("by", split.by), ("groups", split.groups)):
        column = None if name is None else column_of(table, name)
        if column is not None:
            said, field = _useless(field, column, target, split)
            yield from [_reject(f"validation/{field}", said)] if said else []
        elif name is not None:
            names = ", ".join(one.name for one in table.columns[:SHOWN])
            yield _reject(f"validation/{field}", f"found {shown(name)}; accepted is one of the columns {names}")


def _times(params: TabularParams, split: Split, table: Description) -> Iterator[Rejection]:
    """Whether it is known what the last rows are the last of, and whether the other dataset is another."""
    dates = [one.name for one in features(table, params) if one.type == "date"]
    if split.last is not None and split.by is None and len(dates) > 1:
        yield _reject("validation/by", f"needed, because there are several columns of dates: {_listed(dates)}")
    if split.dataset is not None and split.dataset == params.dataset:
        yield _reject("validation/dataset", "it is the dataset to train on; accepted is another one")


def _useless(field: str, column: Column, target: Column, split: Split) -> tuple[str, str]:
    """Why rows cannot be split by a column, if they cannot, and the field that says so."""
    name, why = column.name, ""
    if name == target.name:
        why = f"{name!r} is the target; accepted is another column"
    elif field == "by" and column.type not in ("number", "date"):
        why = f"{name!r} is not of dates or numbers, but {column.why}; rows cannot be ordered by it"
    elif field == "groups" and column.distinct in (0, 1):
        why = f"{name!r} is the same in every row; two groups are needed"
    elif field == "by" and column.distinct in (0, 1):
        why = f"{name!r} is the same in every row; rows cannot be ordered by it"
    elif field == "column" and isinstance(said := sides(column, split), str):
        return said, field if split.value is None else "value"
    return why, field


def _other(params: TabularParams, table: Description, target: Column, other: Description) -> Iterator[Rejection]:
    """Whether the dataset to validate on has what the one to train on has."""
    where = "validation/dataset"
    there: Mapping[str, Column] = {one.name: one for one in other.columns}
    gone = [one.name for one in (target, *features(table, params)) if one.name not in there]
    if gone:
        yield _reject(where, f"it has no column {_listed(gone)}, which the dataset to train on has")
        return
    for one in (target, *features(table, params)):
        if there[one.name].unfit:
            yield _reject(where, f"the column {one.name!r} cannot be trained on: {there[one.name].unfit}")
    if there[target.name].distinct == 0:
        yield _reject(where, f"its column {target.name!r} has no values")


def unseen(params: TabularParams, table: Table, other: Table) -> list[Rejection]:
    """Classes of the dataset to validate on that no row to train on has."""
    target = column_of(table.description, params.target)
    if target is None or not is_classes(target, params.kind) or not (trained := table.distinct.get(target.name)):
        return []
    new = sorted(other.distinct.get(target.name, frozenset()) - trained)
    what = f"{target.name!r} has {_listed(new)} there, which no row to train on has"
    return [_reject("validation/dataset", what)] if new else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
