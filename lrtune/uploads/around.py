"""What stands around a table and is none of its rows: titles above the names, units below them, totals at the end."""

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from lrtune.uploads import cells
from lrtune.uploads.headers import has_header
from lrtune.uploads.options import Options

MOST_TITLES = 20
LEAST_ROWS = 10  # below a row of units, to be sure what the columns are
NUMBERS = 0.8  # share of a column's cells that makes it one of numbers
TAIL = 5  # rows at the end that may be totals
TOTAL = re.compile(
    r"((grand|sub|net|overall)[ -]?)?totals?|(gesamt|zwischen|end)?summen?|sums?|gesamt|insgesamt|total(e|i|es|en)"
    r"|total(e)? g[eé]n[eé]ral(e)?|somme|suma|soma|totaal|итого|всего|合计|合計|总计|average|mittelwert|durchschnitt|ø",
    re.IGNORECASE,
)
Row = tuple[int, list[str]]  # the line where it ends, and its cells


def titles(start: Sequence[Row], options: Options, mark: str) -> int:
    """How many rows stand above the one with the names: nearly empty ones, where a row of names follows."""
    rows = [row for _, row in start]
    if options.header is False or len(rows) < 3 or any(name in rows[0] for name in options.names):
        return 0
    usual = int(median(_filled(row) for row in rows[1:]))
    count = next((n for n, row in enumerate(rows) if not _sparse(row, usual)), 0)
    if not 0 < count <= MOST_TITLES or len(rows) < count + 2:
        return 0
    names = [name for name in rows[count] if name]
    if usual < 2 or len(names) * 4 < 3 * usual or len(rows[count]) < usual:
        return 0
    return count if has_header(rows[count:], replace(options, header=None), mark)[0] else 0


def _filled(row: Sequence[str]) -> int:
    return sum(cell != "" for cell in row)


def _sparse(row: Sequence[str], usual: int) -> bool:
    """Whether a row has at most half of the cells that are usual; of two, the first and no number."""
    filled = _filled(row)
    if usual == 2 and filled == 1 and (not row[0] or _number(row[0])):
        return False
    return filled * 2 <= usual


def _number(cell: str) -> bool:
    return any(not np.isnan(cells.number(cell, decimal)) for decimal in ".,")


def units(start: Sequence[Row]) -> bool:
    """Whether the row below the names has words wherever there are numbers below it, and no word that comes again."""
    rows = [row for _, row in start[1:]]
    if len(rows) <= LEAST_ROWS:
        return False
    words = others = 0
    for place, cell in enumerate(rows[0]):
        below = [row[place] for row in rows[1:] if place < len(row) and row[place] not in cells.MISSING]
        if not cell or not below:
            continue
        if sum(map(_number, below)) < NUMBERS * len(below):
            others += 1
            if cell in below:
                return False
        elif _number(cell):
            return False
        else:
            words += cell.casefold() not in cells.AMONG_NUMBERS
    return words > 1 or (words == 1 and not others)


def totals(start: Sequence[Row], tail: Sequence[Row]) -> list[Row]:
    """The rows at the end that sum up those above: such a word, which no other row has, or nearly nothing beside it."""
    usual = int(median(_filled(row) for _, row in start))
    last = {line for line, _ in tail}
    known = {cell.casefold() for line, row in start if line not in last for cell in row}
    found: list[Row] = []
    for line, row in reversed(tail):
        empty = not any(row)
        word = next((cell for cell in row if TOTAL.fullmatch(cell.rstrip(": ").strip("*"))), None)
        again = word is not None and word.casefold() in known
        if not empty and (word is None or (again and not _sparse(row, usual)) or not any(map(_number, row))):
            break
        found.append((line, row))
    while found and not any(found[-1][1]):
        found.pop()  # blank rows above no total are rows
    return found[::-1]


def sums(row: Sequence[str], start: Sequence[Row]) -> list[tuple[int, str]]:
    """The places and cells of a nearly empty row that may be sums of their columns."""
    if not _sparse(row, int(median(_filled(one) for _, one in start))):
        return []
    there = [(place, cell) for place, cell in enumerate(row) if cell]
    return there if all(_number(cell) for _, cell in there) else []


def adds_up(cell: str, column: Sequence[str]) -> bool:
    """Whether a number is the sum of those in its column, in one way of writing or the other."""
    for decimal in ".,":
        value = cells.number(cell, decimal)
        above = np.array([cells.number(one, decimal) for one in column if one])
        there = above[~np.isnan(above)]
        if len(there) > 2 and value != 0 and np.isclose(there.sum(), value, rtol=1e-6, atol=0.0051):
            return True
    return False
