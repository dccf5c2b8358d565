"""What one column turned out to hold: how many are missing, how many different, how far its numbers go."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.uploads import cells
from lrtune.uploads.judging import Decision
from lrtune.uploads.texts import CUT
from lrtune.wire.datasets import FEW, Column

LARGEST, SMALLEST = 1e150, 1e-150  # between them squares are numbers, and so is a standard deviation
APART = 60  # binary orders of magnitude from most numbers to the largest, up to which their squares fit float32
BULK = 0.9
DAY = 86400.0
NOTHING = (-99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0)  # written where a number is missing
PARTS = ("year", "month", "day of week", "hour")


class Summary:
    """One column. `counted` is how many different values are told apart."""

    def __init__(self, decision: Decision, counted: int) -> None:
        self._decision, self._counted = decision, counted
        self.rows = self.missing = self.infinite = 0
        self.whole = True
        self._values: set[Any] = set()
        self._counts: Counter[str] | None = Counter()  # of its values, while they are few
        self._orders: Counter[int] = Counter()  # of magnitude, binary; None of zero
        self._largest, self._largest_at, self._infinite_at = 0.0, "", ""
        self._zeros = 0
        self._nothing: Counter[float] = Counter()  # of NOTHING, and how far the other numbers go
        self._low, self._high = math.inf, -math.inf
        self._counts_rows = True
        self._parts: dict[str, set[int]] = {name: set() for name in PARTS}

    def see(self, values: NDArray[Any], where: Callable[[int], str]) -> None:
        """Take values into account; infinite ones become missing in place."""
        self.rows += len(values)
        if values.dtype == object:
            present = [value for value in values if value is not None]
            self.missing += len(values) - len(present)
            if len(self._values) <= self._counted:
                self._values.update(map(_short, present))
            self._count(present)
            return
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            self._infinite_at = self._infinite_at or where(int(infinite[0]))
            self.infinite += len(infinite)
            values[infinite] = np.nan
        present = values[~np.isnan(values)]
        self.missing += len(values) - len(present)
        if len(self._values) <= self._counted:
            self._values.update(np.unique(present)[: self._counted + 1].tolist())
        self._count(present)
        self._measure(values, present, where)

    def _count(self, present: Sequence[Any] | NDArray[Any]) -> None:
        if self._counts is None:
            return
        some = key(present)
        self._counts.update(some)
        if len(self._counts) > FEW or max(map(len, some), default=0) > CUT:
            self._counts = None

    def _measure(self, values: NDArray[Any], present: NDArray[Any], where: Callable[[int], str]) -> None:
        if not len(present):
            return
        self._count_rows(values)
        self._nothing.update({one: many for one in NOTHING if (many := int((present == one).sum()))})
        others = present[~np.isin(present, NOTHING)]
        if len(others):
            self._low, self._high = min(self._low, float(others.min())), max(self._high, float(others.max()))
        self.whole = self.whole and bool((present == np.floor(present)).all())
        zeros = int((present == 0).sum())
        self._zeros += zeros
        if zeros < len(present):
            orders, counts = np.unique(np.frexp(present[present != 0])[1], return_counts=True)
            self._orders.update(dict(zip(orders.tolist(), counts.tolist(), strict=True)))
        place = int(np.nanargmax(np.abs(values)))
        if abs(values[place]) > self._largest:
            self._largest, self._largest_at = abs(float(values[place])), f"{where(place)}: {values[place]:g}"
        if self._decision.type == "date":
            for name, found in date_parts(present, PARTS).items():
                if len(self._parts[name]) < 2:
                    self._parts[name].update(np.unique(found)[:2].astype(int).tolist())

    def _count_rows(self, values: NDArray[Any]) -> None:
        rows = np.arange(self.rows - len(values), self.rows)
        self._counts_rows = self._counts_rows and any(np.array_equal(values, rows + first) for first in (0, 1))

    def remarks(self) -> list[str]:
        """What is worth asking about a column of numbers: whether it counts the rows, or writes -999 for nothing."""
        if self._decision.type != "number" or self.rows < FEW:
            return []
        found = ["counts the rows; it is used all the same"] if self._counts_rows else []
        far = (self._high - self._low) / 2
        for one, many in self._nothing.items():
            if many > 1 and max(one - self._high, self._low - one) > far:
                found.append(
                    f"is {one:g} in {many} rows, far off the rest: where it means nothing, name it in `missing`"
                )
        return found

    def column(self, name: str) -> Column:
        """The column as it is described."""
        distinct = len(self._values) if len(self._values) <= self._counted else None
        kind, why = self._decision.type, self._decision.why
        if distinct == 0:
            kind, why = "empty", "no values: left out, because it says nothing"
        parts = ["moment", *(part for part in PARTS if len(self._parts[part]) > 1)] if kind == "date" else []
        if parts:
            why = f"{why}; taken as numbers, in UTC: {', '.join(parts)}"
        if self.infinite:
            many = f"{self.infinite} infinite numbers are" if self.infinite > 1 else "an infinite number is"
            why = f"{why}; {many} taken as missing ({self._infinite_at})"
        number = kind in ("number", "flag", "date")
        return Column(
            name=name,
            type=kind,
            missing=self.missing,
            distinct=distinct,
            why=why,
            left_out=distinct == 0,
            parts=parts,
            whole=number and kind != "date" and self.whole,
            unfit=self._unfit(distinct) if number else "",
            counts=dict(sorted((self._counts or {}).items())),
        )

    def _unfit(self, distinct: int | None) -> str:
        """Why scaled numbers would not fit float32, if they would not."""
        if distinct in (0, 1):
            return ""
        if self._largest > LARGEST or self._largest < SMALLEST:
            return f"its numbers are too {'large' if self._largest > 1 else 'small'} to be scaled ({self._largest_at})"
        total, seen, bulk = self._orders.total() + self._zeros, self._zeros, 0
        for order, many in sorted(self._orders.items()):
            if seen >= BULK * total:
                break
            seen, bulk = seen + many, order
        if max(self._orders, default=0) - bulk <= APART:
            return ""
        most = f"{math.ldexp(1, bulk):.0e}"
        return (
            f"most of its numbers are below {most}, and one is so far above that it does not fit ({self._largest_at})"
        )

    def known(self) -> frozenset[str]:
        """Its different values; none where there are too many."""
        return frozenset(key(list(self._values))) if len(self._values) <= self._counted else frozenset()

    @property
    def said(self) -> bool:
        """Whether there is something to note."""
        return self._decision.said or self.infinite > 0


def key(values: Sequence[Any] | NDArray[Any]) -> list[str]:
    """Values of a column as `Column.counts` has them."""
    return [value if isinstance(value, str) else cells.word(value) for value in values]


def _short(value: str) -> str:
    """What stands for a value where different ones are counted, so that long ones do not fill the memory."""
    return value if len(value) <= CUT else f"{value[:CUT]}{hash(value)}"


def date_parts(moments: NDArray[np.float64], names: "tuple[str, ...] | list[str]") -> dict[str, NDArray[np.float64]]:
    """The numbers that moments (seconds since 1970) become, NaN where one is missing; a moment itself is in days."""
    gone = np.isnan(moments)
    safe = np.where(gone, 0, moments)
    days = np.floor(safe / DAY)
    dates = days.astype("int64").astype("datetime64[D]")
    months = dates.astype("datetime64[M]").astype("int64")
    made = {
        "moment": safe / DAY,
        "year": np.floor(months / 12) + 1970,
        "month": months % 12 + 1.0,
        "day of week": (days + 3) % 7,
        "hour": np.floor((safe - days * DAY) / 3600),
    }
    return {name: np.where(gone, np.nan, made[name]) for name in names}
