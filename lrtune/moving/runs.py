"""Runs in a CSV file, as boards and spreadsheets write them, as the trials of a finished job.

A run counts where its row says that it finished, or says nothing of how it ended. One whose value is not finite, or as
good as that, has diverged, however it ended. All others are left out, and counted by what their rows say.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrtune.errors import Invalid
from lrtune.moving import needed
from lrtune.moving.flat import configuration
from lrtune.wire.imports import ImportedTrial
from lrtune.wire.job import usable
from lrtune.wire.results import TrialState

STATES = ("state", "status")
FINISHED = ("finished", "complete", "completed", "succeeded", "success", "done", "")
# What boards say of a run that is no parameter, and a column without a name.
BESIDE = re.compile(
    r"name|(run )?id|number|notes|user|tags|group|job type|sweep|agent|created|updated|start(ed)?|end( time)?|runtime"
    r"|duration|host(name)?|commit|github|gpu (count|type)|datetime_(start|complete)|unnamed: \d+"
    r"|_(step|runtime|timestamp|wandb)",
    re.IGNORECASE,
)
# How Ray Tune, MLflow and Optuna's own tables mark the columns that are parameters: then no other is.
MARKS = ("config/", "params.", "params_")
ITERATION = "training_iteration"  # Ray's, of the last report: it has no column that says which runs were stopped early
INFINITE = ("nan", "inf", "infinity")
DECIMAL = re.compile(r"[+-]?\d*([.,])\d+(?:e[+-]?\d+)?", re.IGNORECASE)


def trials(
    path: Path, value: str, *, steps: int, names: Mapping[str, str], fixed: Mapping[str, Any]
) -> tuple[list[ImportedTrial], Counter[str]]:
    """The runs of a file, each over `steps`, and how many were left out by what their rows say.

    Raises Invalid, naming the line whose cells do not fit.
    """
    delimited, options = (needed(f"lrtune.uploads.{one}", package="numpy") for one in ("delimited", "options"))
    form = delimited.form(path, options.Options(header=True, names=(value,)))
    mark = next((mark for mark in MARKS if any(name.startswith(mark) for name in form.names)), "")
    names = {name if name in form.names else mark + name: ours for name, ours in names.items()}
    for option, name in (("--value", value), *(("--map", name) for name in names)):
        if name not in form.names:
            raise Invalid(f"{option}: found {name!r}; accepted is one of the columns {', '.join(form.names)}")
    rows = [
        (line, dict(zip(form.names, cells, strict=True)))
        for part in delimited.parts(path, form)
        for line, cells in zip(part.lines, zip(*part.columns, strict=True), strict=True)
    ]
    marks = Counter(found[1] for _, row in rows for cell in row.values() if (found := DECIMAL.fullmatch(cell)))
    decimal = "," if marks[","] > marks["."] else "."
    state = next((name for name in form.names if name.casefold() in STATES and name not in (value, *names)), "")
    beside = {
        name
        for name in form.names
        if name not in names
        and (name in (value, state) or not name.startswith(mark) or (not mark and BESIDE.fullmatch(name)))
    }
    plain = {name.removeprefix(mark): ours for name, ours in names.items()}
    reached = [int(row[ITERATION]) if mark and row.get(ITERATION, "").isdecimal() else 0 for _, row in rows]
    whole = max(reached, default=0)
    made, left = list[ImportedTrial](), Counter[str]()
    for (line, row), iterations in zip(rows, reached, strict=True):
        there = {name: read for name, cell in row.items() if (read := _read(cell, decimal)) is not None}
        ended, measured = row.get(state, "").casefold(), there.get(value)
        diverged = row[value].lstrip("+-").casefold() in INFINITE
        diverged = diverged or (isinstance(measured, float) and not usable(measured))
        if not diverged and (ended not in FINISHED or value not in there):
            left[f"without {value}" if ended in FINISHED else ended] += 1
            continue
        if not diverged and iterations < whole:
            left["stopped early"] += 1
            continue
        try:
            if not diverged and not isinstance(measured, float):
                raise Invalid(f"{value}: found {row[value]!r}; accepted is a number")
            params = {name.removeprefix(mark): read for name, read in there.items() if name not in beside}
            chosen = configuration(params, plain, fixed, steps=steps)
        except Invalid as error:
            raise Invalid(f"line {line} of {path.name}: {error}") from None
        made.append(
            ImportedTrial(
                configuration=chosen,
                state=TrialState.DIVERGED if diverged else TrialState.COMPLETE,
                reason=f"its {value} was {row[value]}" if diverged else "",
                value=None if diverged else measured,
                horizon=steps,
                step=steps,
            )
        )
    if not made:
        raise Invalid(f"{path.name}: found no run that finished with a {value} ({counted(left)})")
    return made, left


def counted(left: Mapping[str, int]) -> str:
    """What was left out, in words."""
    return ", ".join(f"{count} {why}" for why, count in left.items())


def _read(cell: str, decimal: str) -> Any:
    """What a cell says: a number, true or false, a word; None where it says nothing."""
    cells = needed("lrtune.uploads.cells", package="numpy")
    if cell in cells.MISSING:
        return None
    number = cells.number(cell, decimal)
    flags = {"true": True, "false": False}
    return flags.get(cell.casefold(), cell) if math.isnan(number) else number
