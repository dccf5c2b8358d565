"""Whether the first row of a table names its columns: it is compared with what stands below it, column by column."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lrtune.errors import UnusableFile
from lrtune.uploads import cells
from lrtune.uploads.options import Options

NUMBERS = 0.8  # share of a column's cells that makes it one of numbers
SURE = 2  # from this on, and where no column speaks against it, nothing is said
YEARS = range(1800, 2200)


def has_header(start: Sequence[Sequence[str]], options: Options, mark: str) -> tuple[bool, str]:
    """Whether the first row is a header, and a note where that is not sure."""
    first, below = start[0], start[1:]
    if options.header is not None:
        return options.header, ""
    if any(name in first and not _is_number(name, options) for name in options.names):
        return True, ""
    if not below:
        if any(_is_number(cell, options) for cell in first):
            return False, ""
        raise UnusableFile("the file has a header and no rows below it")
    others = [row for row in below if row != first]
    years = _years(first)
    votes = [1 if place in years else _vote(place, first, others, options, mark) for place in range(len(first))]
    if len(others) < len(below) and not any(vote >= 3 for vote in votes):
        return False, ""  # a row of data that comes again
    if _counted(first) and not _counted_on(others):
        return True, _note(first, True)
    score = sum(votes)
    header = score > 0 or (score == 0 and not any(_is_number(cell, options) for cell in first))
    both = min(votes) < 0 < max(votes)
    return header, "" if abs(score) >= SURE and not both else _note(first, header)


def _note(first: Sequence[str], header: bool) -> str:
    what = "was taken for the names of the columns" if header else "was taken for data"
    wrong = "false" if header else "true"
    row = ", ".join(first[:4])[:80]
    return f"the first row ({row}) {what}; where that is wrong, `header` is {wrong}"


def _is_number(cell: str, options: Options) -> bool:
    marks = (options.decimal,) if options.decimal else (".", ",")
    return any(not np.isnan(cells.number(cell, mark)) for mark in marks)


def _vote(place: int, first: Sequence[str], below: Sequence[Sequence[str]], options: Options, mark: str) -> int:
    """How much a column says for a header (above 0) or against one."""
    name = first[place]
    column = [row[place] for row in below if place < len(row) and row[place] not in cells.MISSING]
    if name in cells.MISSING or not column:
        return 0
    decimal = options.decimal or ("," if mark == ";" and any("," in cell for cell in column) else ".")
    values = np.array([cells.number(cell, decimal) for cell in column])
    values = values[~np.isnan(values)]
    if len(values) >= NUMBERS * len(column):
        if name.casefold() in cells.AMONG_NUMBERS:
            return 0
        return _beside_numbers(cells.number(name, decimal), values)
    if name in column:
        return -2
    if _dated(column):
        return -1 if _dated([name]) else 3
    return 2 if len(set(column)) <= max(1, len(column) // 2) else 0


def _beside_numbers(name: float, values: "np.typing.NDArray[np.float64]") -> int:
    if np.isnan(name):
        return 3
    if name != np.floor(name) or values.min() <= name <= values.max():
        return -1
    return 1 if name in YEARS or not (values == np.floor(values)).any() else -1


def _years(first: Sequence[str]) -> set[int]:
    """The places of years that follow each other, as they stand above the columns of a report."""
    places = [place for place, cell in enumerate(first) if cell.isdecimal() and int(cell[:9]) in YEARS]
    gaps = {int(first[b]) - int(first[a]) for a, b in pairwise(places)}
    return set(places) if len(places) > 2 and len(gaps) == 1 and gaps != {0} else set()


def _dated(column: Sequence[str]) -> bool:
    some = list(column[:20])
    if not cells.like_a_date(some[0]):
        return False
    return any(not np.isnan(cells.dates(some, form)).any() for form in ("ISO8601", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y"))


def _counted(first: Sequence[str]) -> bool:
    """Whether the first row counts the columns, as pandas names those without a name."""
    return len(first) > 2 and list(first) == [str(place) for place in range(len(first))]


def _counted_on(below: Sequence[Sequence[str]]) -> bool:
    """Whether rows below go on counting."""
    return any(
        all(cell == str(int(row[0]) + place) for place, cell in enumerate(row)) for row in below[:3] if row[0].isdigit()
    )
