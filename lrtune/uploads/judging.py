"""What a column of text is: numbers in one of two ways of writing, flags, spans of time, dates of one form, or words.

A column is what nearly all its cells are. An odd cell is then a missing value, and said; where too many are odd the
column is words, and that is said too.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lrtune.uploads import cells
from lrtune.uploads.options import Options
from lrtune.wire.datasets import FEW

Parse = Callable[[Sequence[str]], NDArray[np.float64]]
SAMPLE = 50  # cells that tell which ways are worth trying
ODD_SHARE, LEAST_RIGHT = 0.05, 10  # odd cells that numbers may have, and how many right ones each must have beside it
SHOWN = 3
DIGIT = re.compile(r"\d")
EXACT = 2**53  # up to here floats tell whole numbers apart
TYPES = {"span": "number", "numbers": "number", "dates": "date", "flags": "flag"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a column is (`number`, `flag`, `date`, `text`), how its cells are read, and why; `said` is worth a note.

    `decimal` is the mark of its numbers, where they have one. `way` (numbers, flags, span, dates, words), `form` and
    `marks` say what another table must have to be read alike; `doubt`: day and month could be the other way round.
    """

    type: str
    why: str
    parse: Parse | None = None
    said: bool = False
    decimal: str = ""
    way: str = "words"
    form: str = ""
    marks: frozenset[str] = frozenset()
    doubt: bool = False


@dataclass(slots=True)
class Way:
    """One way to read a column's cells, and how many of them do not follow it."""

    kind: str
    form: str
    parse: Parse
    odd: int = 0
    shown: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    values: set[float] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)
    names: bool = False  # numbers that are rather names, because they are too long
    codes: bool = False  # numbers of which one begins with a zero that no amount has
    lengths: set[int] = field(default_factory=set)
    years: set[int] = field(default_factory=set)  # of dates that give two digits of them

    def see(self, texts: Sequence[str], where: Callable[[int], str], read: NDArray[np.float64] | None = None) -> None:
        """Take cells into account; `read` is what they are in this way, where that is known already."""
        read = self.parse(texts) if read is None else read
        for place in np.flatnonzero(np.isnan(read)).tolist():
            self.odd += 1
            if len(self.shown) < SHOWN:
                self.shown.append(f"{where(place)}: {texts[place][:40]!r}")
            if len(self.words) < 2:
                self.words.add(texts[place])
        if "%y" in self.form:
            self.years |= cells.years(read)
        if len(self.values) <= FEW:
            self.values.update(read[~np.isnan(read)][:1000].tolist())
        if self.kind == "numbers" and len(self.marks) < SHOWN:
            self.marks.update(*map(cells.marks, texts[:SAMPLE]))
        if self.kind == "numbers" and len(self.lengths) < 2:
            self.lengths.update(map(len, texts))
            self.codes = self.codes or any(text[0] == "0" and len(text) > 1 and text.isdecimal() for text in texts)
        if self.kind == "numbers" and not self.names and (np.abs(read) > EXACT).any():
            self.names = cells.same_as_others(texts)


def _flags(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([cells.FLAGS.get(text.casefold(), np.nan) for text in texts], dtype=np.float64)


def _spans(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([cells.span(text) for text in texts], dtype=np.float64)


def _ways(options: Options, sample: Sequence[str]) -> Iterable[Way]:
    unit = cells.unit_of(sample)
    for mark in [options.decimal] if options.decimal else [".", ","]:
        yield Way(
            "numbers", mark, partial(cells.numbers, decimal=mark, unit=unit), marks={f"in {unit!r}"} if unit else set()
        )
    yield Way("flags", "", _flags)
    yield Way("span", "", _spans)
    if sum(map(cells.like_a_date, sample)) * 2 >= len(sample):
        for form in cells.DATES:
            if any(cells.of_form(text, form) for text in sample[:3]):  # quickly, because there are many forms
                yield Way("dates", form, partial(cells.dates, form=form))


class Judge:
    """One column of text, seen a part at a time."""

    def __init__(self, options: Options, missing: frozenset[str], given: list[Way] | None = None) -> None:
        self._options, self._missing = options, missing
        self._ways, self.given = given, given  # given: the ways to read it that another table leaves open
        self.seen = self.soft = 0
        self.dotted = self.with_commas = self.unmarked = False
        self._nothing: list[str] = []  # words for a missing number
        self._gone: Counter[str] = Counter()  # words for a missing word

    def see(self, texts: Sequence[str | None], where: Callable[[int], str]) -> None:
        """Take cells into account; `where` says in words where one of them stands."""
        if self._ways and self._ways[0].form == "." and (read := cells.plain(texts)) is not None:
            self._take(cast(Sequence[str], texts), where, read)
            return
        self._gone.update(text for text in texts if text and text in self._missing)
        present = [(place, text) for place, text in enumerate(texts) if text is not None and text not in self._missing]
        firm = [(place, text) for place, text in present if text.casefold() not in cells.AMONG_NUMBERS]
        self.soft += len(present) - len(firm)
        if len(present) > len(firm) and len(self._nothing) < SHOWN:
            soft = [(place, text) for place, text in present if text.casefold() in cells.AMONG_NUMBERS]
            self._nothing += [f"{where(place)}: {text!r}" for place, text in soft[: SHOWN - len(self._nothing)]]
        if not firm:
            return
        self._take([text for _, text in firm], lambda place: where(firm[place][0]))

    def _take(self, solid: Sequence[str], where: Callable[[int], str], read: NDArray[np.float64] | None = None) -> None:
        self.seen += len(solid)
        if self._ways is None:
            self._ways = [way for way in _ways(self._options, solid[:SAMPLE]) if _likely(way, solid[:SAMPLE])]
        for way in self._ways:
            way.see(solid, where, read if way.form == "." else None)
        if self.given is None:
            self._ways = [way for way in self._ways if way.odd <= max(SAMPLE, self.seen // 2)]
        if any(way.kind == "numbers" for way in self._ways) and not (self.dotted and self.with_commas):
            # a mark that stands in a word, such as 'k.A.', says nothing of how numbers are written
            amounts = [text for text in solid if DIGIT.search(text)]
            joined = "".join(amounts)
            self.dotted |= "." in joined
            self.with_commas |= "," in joined
            self.unmarked = self.unmarked or any("." not in text and "," not in text for text in amounts)

    def vote(self) -> int:
        """How many cells say that a comma is the decimal mark, less those that say it is a point."""
        found = {way.form: way.odd for way in self._ways or () if way.kind == "numbers"}
        if not found or self.given is not None:
            return 0
        return found.get(".", self.seen) - found.get(",", self.seen)

    def decide(self, *, votes: int, mark: str) -> Decision:
        """What the column is. The `votes` of all columns break ties, and where there are none the separator `mark`."""
        # a mark that only some numbers have, always before three digits, rather sets off thousands
        alone = not self.unmarked if self.with_commas else self.dotted and self.unmarked
        comma = votes > 0 or (votes == 0 and mark not in ("", ",") and alone)
        day_first = votes > 0 or (votes == 0 and mark == ";")
        ways = self._ways or []
        if not self.seen:
            return self._words()
        best = min(ways, key=partial(self._rank, comma=comma, day_first=day_first), default=None)
        if best is None or best.odd > self.seen // 2:
            return self._words()
        if best.names:
            return Decision("text", "words: whole numbers too long to be told apart as amounts are names", said=True)
        if best.codes and len(best.lengths) == 1 and not best.odd:
            return Decision("text", "words: numbers of one length with zeros in front are codes", said=True)
        if not self._accepts(best):
            right = self.seen - best.odd
            why = f"words, although {right} of {self.seen} values are {best.kind}: {'; '.join(best.shown)}"
            return Decision("text", why, said=True)
        return self.decided(best, ways)

    def _words(self) -> Decision:
        if not self._gone:
            return Decision("text", "words")
        listed = ", ".join(map(repr, sorted(self._gone)[:SHOWN]))
        return Decision("text", f"words, where {listed} is taken as missing ({self._gone.total()} times)", said=True)

    def _rank(self, way: Way, *, comma: bool, day_first: bool) -> tuple[int, int]:
        if way.form == cells.COMPACT:
            return way.odd, -1 if self.seen >= LEAST_RIGHT else 2
        if way.kind == "numbers":
            return way.odd, int((way.form == ",") != (comma and (self.with_commas or self.dotted)))
        first = way.form.startswith("%d") or way.form == "ISO8601"
        return way.odd, 0 if first == day_first or way.form == "ISO8601" else 1

    def _accepts(self, way: Way) -> bool:
        right = self.seen - way.odd
        if not way.odd:
            return True
        if way.kind == "flags":
            return False
        sentinel = len(way.words) == 1 and not any(letter.isdigit() for letter in next(iter(way.words)))
        if sentinel and right >= way.odd and len(way.values) > FEW:
            return True
        return way.odd <= max(1, ODD_SHARE * self.seen) and right >= LEAST_RIGHT * way.odd

    def few_odd(self, way: Way) -> bool:
        """Whether cells that cannot be read in this way are so few, or so alike, that they are missing values."""
        right = self.seen - way.odd
        one_word = len(way.words) == 1 and not any(letter.isdigit() for letter in next(iter(way.words)))
        few = way.odd <= max(1, ODD_SHARE * self.seen) and right >= LEAST_RIGHT * way.odd
        return not way.odd or few or (one_word and right >= way.odd)

    def wordy(self, way: Way) -> bool:
        """Whether what cannot be read in this way has no digits."""
        return all(not any(map(str.isdigit, word)) for word in way.words)

    def decided(self, way: Way, ways: Sequence[Way]) -> Decision:
        """What a column is that is read in this way."""
        words = {"numbers": "numbers", "flags": "true or false", "span": "spans of time, in seconds"}
        why = words.get(way.kind) or f"dates ({_readable(way.form)})"
        parse = way.parse
        if "%y" in way.form and self.given is None:
            latest = cells.last_year(way.years)
            parse = partial(cells.dates, form=way.form, latest=latest)
            why = f"{why[:-1]}, of the years {latest - 99} to {latest})"
        doubt = way.kind == "dates" and _other_order(way, ways)
        if doubt:
            why += ", where the order of day and month is not sure"
        if way.kind == "numbers" and self.with_commas:
            why += " with a decimal comma" if way.form == "," else " whose thousands are set off by commas"
        elif way.form == "," and self.dotted:
            why += " whose thousands are set off by points"
        if way.marks:
            why += f": {', '.join(sorted(way.marks))}"
        shown, gone = [*way.shown, *self._nothing], way.odd + self.soft
        if gone:
            what = f"{gone} of {self.seen + self.soft} values {'are' if gone > 1 else 'is'} none"
            why += f"; {what} and taken as missing ({'; '.join(shown[:SHOWN])})"
        decimal = way.form if way.kind == "numbers" and (self.with_commas or self.dotted) else ""
        return Decision(
            TYPES[way.kind],
            why,
            parse,
            said=bool(gone or way.marks or doubt or "%y" in way.form),
            decimal=decimal,
            way=way.kind,
            form=way.form,
            marks=frozenset(way.marks),
            doubt=doubt,
        )


def _likely(way: Way, sample: Sequence[str]) -> bool:
    """Whether at least half of some cells can be read in this way."""
    try:
        return bool(np.isnan(way.parse(sample)).sum() * 2 <= len(sample))
    except (ValueError, OverflowError):
        return False


def _other_order(way: Way, ways: Sequence[Way]) -> bool:
    """Whether the cells could as well be dates with day and month the other way round."""
    dates = [one for one in ways if one.kind == "dates" and one.odd == way.odd]
    return any({one.form[:2], way.form[:2]} == {"%d", "%m"} for one in dates)


def _readable(form: str) -> str:
    names: dict[str, Any] = {"%d": "day", "%m": "month", "%Y": "year", "%y": "year", "%H": "hour", "%M": "minute"}
    names |= {"%S": "second", "%b": "month", "%B": "month", "%I": "hour", "%p": "am/pm", "%f": "fraction", "%z": "zone"}
    names["%a"] = "weekday"
    for sign, word in names.items():
        form = form.replace(sign, word)
    return form
