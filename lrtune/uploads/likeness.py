"""The one rule for whether a dataset to validate on is read as the one to train on was.

A column is read in the way that the other table's was, wherever that way reads it. Flags and the numbers 1 and 0 are
the same, numbers become the words they are, and what would be lost, or could mean something else, is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.uploads import cells
from lrtune.uploads.judging import Decision, Judge, Parse, Way
from lrtune.wire.datasets import Column

COUNTS = ("numbers", "flags")
FLAGS = {"1", "0"}
SHOWN = 5  # of what is found, in an error


@dataclass(frozen=True, slots=True)
class Known:
    """A column of the table to train on: what it holds and how it was read."""

    column: Column
    decision: Decision

    def ways(self) -> list[Way] | None:
        """The ways in which another table's cells may be read, this one's first; None where they are judged anew."""
        decision, parse = self.decision, self.decision.parse
        if parse is None:
            return None
        if decision.way == "flags" or (decision.way == "numbers" and set(self.column.counts) <= FLAGS):
            return [Way(decision.way, decision.form, partial(_with_flags, parse=parse))]
        return [Way(decision.way, decision.form, parse), *_others(decision, parse)]

    def judged(self, judge: Judge) -> Decision:
        """What another table's cells are, which were seen in these ways. Raises UnusableFile."""
        first, *rest = judge.given or []
        other = next((way for way in rest if way.odd < first.odd), None)
        if other and not other.odd and first.kind == "numbers":
            return replace(judge.decided(other, [other]), marks=frozenset(other.marks))
        if other or not judge.few_odd(first):
            odd = f"{first.odd} of {judge.seen} values are not to be read so: {'; '.join(first.shown)}"
            words = "words" if judge.wordy(first) else "something else"
            raise UnusableFile(f"{self._unlike(words)}: {odd}")
        return judge.decided(first, [first]) if judge.seen else self.decision

    def same(self, found: Decision, *, empty: bool) -> Decision:
        """How the column is read, which is `found` or words that it becomes. Raises UnusableFile."""
        mine = self.decision
        if empty or found.why == "no values":
            return found if mine.parse is None and mine.type != "text" else mine
        if mine.way == "words":
            if found.way not in ("words", "numbers"):
                raise UnusableFile(self._unlike(found.why))
            return mine
        if mine.way != found.way and not (mine.way in COUNTS and found.way in COUNTS):
            raise UnusableFile(self._unlike(found.why))
        if found.doubt and not mine.doubt and mine.parse is None:
            raise UnusableFile(self._unlike(f"{found.why}; write them as 2024-03-01"))
        if _units(mine.marks) != _units(found.marks) and (_units(found.marks) or "per cent" in _units(mine.marks)):
            raise UnusableFile(self._unlike(found.why))
        return found

    @property
    def _name(self) -> str:
        return repr(self.column.name[:60])

    def _unlike(self, why: str) -> str:
        return f"{self._name} is {self.decision.why} in the dataset to train on, and {why} here"


def wanted(names: Sequence[str], columns: Iterable[Column], decisions: Mapping[str, Decision]) -> dict[str, Known]:
    """The columns of these names that the table to train on has and learns from."""
    return {one.name: Known(one, decisions[one.name]) for one in columns if one.name in names and not one.left_out}


def same_flags(columns: Iterable[Column], others: Sequence[Column]) -> None:
    """Raise UnusableFile where one table has flags and the other has numbers that are none."""
    there = {one.name: one for one in others}
    for mine in columns:
        other = there.get(mine.name)
        if other is None or {mine.type, other.type} != {"flag", "number"}:
            continue
        numbers = mine if mine.type == "number" else other
        if not numbers.counts or not set(numbers.counts) <= FLAGS:
            few = ", ".join(list(numbers.counts)[:SHOWN]) or "many"
            where = "the dataset to train on" if numbers is mine else "this one"
            raise UnusableFile(f"{mine.name[:60]!r} is true or false in one dataset, and numbers ({few}) in {where}")


def _with_flags(texts: Sequence[str], parse: Parse) -> NDArray[np.float64]:
    """Cells as `parse` reads them, and the words for 1 and 0 besides."""
    read = parse(texts)
    for place in np.flatnonzero(np.isnan(read)).tolist():
        flag = cells.FLAGS.get(texts[place].casefold(), np.nan)
        number = cells.number(texts[place], ".")
        read[place] = flag if np.isnan(number) or number not in (0, 1) else number
    return read


def _others(decision: Decision, parse: Parse) -> list[Way]:
    """What cells could be instead: where the table to train on left that open, or where they would be misread."""
    if decision.way == "numbers" and not decision.decimal and isinstance(parse, partial):
        other = "," if decision.form == "." else "."
        return [Way("numbers", other, partial(parse.func, **{**parse.keywords, "decimal": other}))]
    if decision.way == "dates" and decision.form[:2] in ("%d", "%m") and isinstance(parse, partial):
        form = decision.form.translate(str.maketrans("dm", "md"))
        return [Way("dates", form, partial(parse.func, **{**parse.keywords, "form": form}))]
    return []


def _units(marks: Iterable[str]) -> str:
    """What numbers are counted in: money, hundredths, a unit."""
    found = (mark for mark in marks if mark.startswith(("money", "per cent", "in ")) and "parentheses" not in mark)
    return ", ".join(sorted(mark.split(" (as")[0] for mark in found))
