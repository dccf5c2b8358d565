"""What one cell of text says: a number as people write them, a span of time, a moment. No cell is looked at twice."""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EMPTY = "? #N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null"
MISSING = frozenset((*_EMPTY.split(" "), "", "#N/A N/A"))  # as pandas has it, and "?" as the UCI repository writes it
_AMONG = "- -- --- – — . .. ... * x #DIV/0! #VALUE! #REF! #NAME? #NUM! #NULL! #ERROR! ND N.D. N/D N.A. UNKNOWN MISSING"
_AMONG += " NONE NIL INVALID TBD UNDEFINED ERROR"
AMONG_NUMBERS = frozenset(word.casefold() for word in (*_AMONG.split(" "), *MISSING, "not available", "no data"))

_SPACES = "  \u00a0\u2009\u202f"
_SIGNS = "$€£¥₹₽₩₺₫₪₴₦฿"
_CODES = r"US\$|R\$|USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|kr\.?|zł|Rs\.?|Fr\.?"
_MONEY = rf"(?:{_CODES}|[{_SIGNS}])"
_CELL = re.compile(
    rf"(?P<open>\()?\s*(?P<sign>[+\-−])?\s*(?:(?P<before>{_MONEY})\s*)?(?P<second>[+\-−])?"
    rf"(?P<digits>[\d.,'’{_SPACES}]*?\d[.,]?(?:e[+-]?\d+)?)\s*(?:(?P<percent>%)|(?P<times>(?-i:[kKMB]|bn|Mio\.?|Mrd\.?)))?"
    rf"\s*(?P<after>{_MONEY})?\s*(?P<close>\))?(?P<last>[\-−])?",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"[+\-−~]?[\d.,'’{_SPACES}]*\d\s*([^\d\s.,:/+-][^\d.,:/-]{{0,11}})")
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))? ?([ap])\.?m\.?", re.IGNORECASE)
_SPAN = re.compile(r"(?:([+-]?\d+) days?,? ?\+?)?([+-])?(?:(\d{1,4}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?)?")
TIMES = {"k": 1e3, "K": 1e3, "M": 1e6, "Mio": 1e6, "Mio.": 1e6, "B": 1e9, "bn": 1e9, "Mrd": 1e9, "Mrd.": 1e9}
FLAGS = {"true": 1.0, "false": 0.0}


def _digits(decimal: str, other: str) -> re.Pattern[str]:
    """The digits of a number whose thousands may be set off: by the other mark, an apostrophe or a space."""
    mark, sets_off = re.escape(decimal), re.escape(other)
    threes = rf"[1-9]\d{{0,2}}([{sets_off}'’{_SPACES}])\d{{3}}(?:\1\d{{3}})*"
    indian = rf"[1-9]\d?(?:{sets_off}\d\d)+{sets_off}\d{{3}}"
    careless = rf"\d+(?:{sets_off}\d{{3,}})+(?={mark}\d)"  # which mark is which is sure all the same
    return re.compile(rf"(?:{threes}|{indian}|{careless}|\d+)?(?:{mark}\d*)?(?:[eE][+-]?\d+)?")


_DIGITS = {".": _digits(".", ","), ",": _digits(",", ".")}
_OFF = {mark: re.compile(rf"[{other}'’{_SPACES}]") for mark, other in ((".", ","), (",", "."))}


def number(cell: str, decimal: str) -> float:
    """A number with this decimal mark; money, per cent, set-off thousands and (negative) ones too. NaN: it is none."""
    if decimal == "." and "_" not in cell:
        try:
            return float(cell)
        except ValueError:
            pass
    found = _CELL.fullmatch(cell)
    if not found or bool(found["open"]) != bool(found["close"]) or not _DIGITS[decimal].fullmatch(found["digits"]):
        return math.nan
    value = float(_OFF[decimal].sub("", found["digits"]).replace(",", "."))
    negative = found["open"] or any(found[part] in ("-", "−") for part in ("sign", "second", "last"))
    value *= TIMES.get(found["times"] or "", 1.0)
    return (-value if negative else value) / (100 if found["percent"] else 1)


def plain(cells: Sequence[Any]) -> NDArray[np.float64] | None:
    """Many numbers as programs write them, if all are, and none is missing."""
    try:
        found = np.array(cells, dtype=np.float64)
    except (ValueError, TypeError):
        return None
    return None if np.isnan(found).any() or "_" in "".join(cells) else found


def unit_of(sample: Sequence[str]) -> str:
    """The unit that all of some numbers have behind them, such as `kg`; empty where they have none, or several."""
    found = {(_UNIT.fullmatch(cell) or [""] * 2)[1] for cell in sample}
    unit = found.pop() if len(found) == 1 else ""
    return "" if unit in ("%", *TIMES) or re.fullmatch(_MONEY, unit) else unit


def numbers(cells: Sequence[str], decimal: str, unit: str = "") -> NDArray[np.float64]:
    """Many at once; a unit behind each is left away."""
    if unit:
        cells = [cell.removesuffix(unit).rstrip() for cell in cells]
    if decimal == ",":
        quick: Sequence[str] = [] if "." in "".join(cells) else [cell.replace(",", ".") for cell in cells]
    else:
        quick = cells
    if len(quick) == len(cells) and (found := plain(quick)) is not None:
        return found
    return np.array([number(cell, decimal) for cell in cells], dtype=np.float64)


def word(value: float) -> str:
    """A number as a word that no other number has: whole ones without a point."""
    return str(int(value)) if value == math.floor(value) and abs(value) < 2**63 else repr(float(value))


def marks(cell: str) -> set[str]:
    """What a number has beside its digits, in words."""
    found = _CELL.fullmatch(cell)
    if not found:
        return set()
    money = {f"money ({sign})" for part in ("before", "after") if (sign := found[part])}
    percent = {"per cent (as hundredths)"} if found["percent"] else set()
    times = {f"{found['times']!r} as {TIMES[found['times']]:.0e}"} if found["times"] else set()
    return money | percent | times | ({"negative ones in parentheses"} if found["open"] else set())


def span(cell: str) -> float:
    """Seconds of `1:30`, `1:30 PM`, `01:30:00` or `2 days 01:30:00`; NaN for anything else."""
    if clock := _CLOCK.fullmatch(cell):
        return int(clock[1]) % 12 * 3600.0 + int(clock[2]) * 60 + int(clock[3] or 0) + 43200 * (clock[4] in "pP")
    found = _SPAN.fullmatch(cell)
    if not found or (found[1] is None and found[3] is None):
        return math.nan
    time = sum(float(part or 0) * unit for part, unit in zip(found.group(3, 4, 5), (3600, 60, 1), strict=True))
    return float(found[1] or 0) * 86400 + (-time if found[2] == "-" else time)


_DAYS: tuple[str, ...] = (
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%y",
    "%m/%d/%y",
)
_DAYS += ("%d/%m/%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%a %b %d %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S %z")
COMPACT = "%Y%m%d"
DATES = ("ISO8601", COMPACT, *(day + clock for day in _DAYS for clock in _CLOCKS), "%a, %d %b %Y %H:%M:%S %z")


_DATE = re.compile(
    r"(\w{3},? )?\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3,9})([-/. ,]+\d{1,4}.*|)|(\w{3} )?[A-Za-z]{3,9}\.? \d{1,2},? \d{4}.*"
    r"|\d{4}-?\d\d(-?\d\d)?([T ].*)?"
)


def like_a_date(cell: str) -> bool:
    """Whether it is worth asking whether a cell is a date."""
    return _DATE.fullmatch(cell) is not None


def of_form(cell: str, form: str) -> bool:
    """Whether one cell is a date of a form."""
    if form == DATES[0]:
        return cell[:4].isdecimal()
    try:
        datetime.strptime(cell, form)
    except ValueError:
        return False
    return True


def same_as_others(texts: Sequence[str]) -> bool:
    """Whether different whole numbers have so many digits that floats cannot tell them apart."""
    long = {text for text in texts if len(text) > 15 and text.isdecimal()}
    return len({float(text) for text in long}) < len(long)


LATEST = 2035  # a year of two digits is rather before; not by today's date, so that a file is always read the same
APART = 5  # years without a date, between which a century may begin


def last_year(years: set[int]) -> int:
    """The last year that years of two digits (each of 0 to 99) stand for: LATEST, or earlier where that cuts them."""
    for latest in range(LATEST, LATEST - 100, -1):
        if not any((latest - before) % 100 in years for before in range(APART)):
            return latest
        if not any((latest + after) % 100 in years for after in range(1, APART)):
            return latest
    return LATEST


def dates(cells: Sequence[str], form: str, latest: int = LATEST) -> NDArray[np.float64]:
    """Seconds since 1970 (UTC), NaN for what is no date of this form; years of two digits end with `latest`."""
    import pandas as pd  # a heavy import, for tables only

    found = pd.to_datetime(pd.Series(cells, dtype=object), format=form, utc=True, errors="coerce")
    if "%y" in form:
        for years in (-100, 100):
            wrong = found.dt.year > latest if years < 0 else found.dt.year <= latest - 100
            found = found.where(~wrong, found + pd.DateOffset(years=years))
    return seconds(found)


def years(moments: NDArray[np.float64]) -> set[int]:
    """The last two digits of the years of moments (seconds since 1970)."""
    there = moments[~np.isnan(moments)].astype("int64").astype("datetime64[s]").astype("datetime64[Y]")
    return set((np.unique(there.astype("int64") + 1970) % 100).tolist())


def seconds(moments: Any) -> NDArray[np.float64]:
    """Seconds since 1970 of a pandas Series of moments."""
    micros = moments.dt.tz_localize(None).to_numpy("datetime64[us]")
    found: NDArray[np.float64] = micros.astype(np.int64) / 1e6
    found[np.isnat(micros)] = np.nan
    return found
