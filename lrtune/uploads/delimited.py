"""CSV as people have it: packed or not, in any encoding, with any separator, with or without a header.

`form` finds out how a file is written; `parts` reads it, a part at a time, so that no file can fill the memory.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from lrtune.errors import UnusableFile
from lrtune.uploads import around
from lrtune.uploads.around import Row
from lrtune.uploads.headers import has_header
from lrtune.uploads.options import Options
from lrtune.uploads.texts import PAGES, lines

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_COLUMNS = 10_000
LONGEST = 16 * 1024 * 1024  # characters of the first line
LOOKED_AT = 1000  # rows that tell whether the first is a header
SAMPLED = 1 << 20  # characters that tell which separator it is
CELLS = 500_000  # read together
BATCH = 8192  # rows read together, at most
BLOCK = 1 << 20
GZIP = b"\x1f\x8b"
MOST_PACKED = 200  # times smaller than unpacked, from FREE bytes on
FREE = 16 * 1024 * 1024
MARKS = "\t;|,"
RARE = " :~^"  # tried where none of the usual ones cuts the rows
BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
)
BOMS += ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SEP = re.compile(r'"?sep=(.)"?[;,\t|]*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Form:
    """How a CSV file is written; `first` is its first row as it stands there.

    The lines that are left `out` are no rows: titles above the names, units below them, totals at the end.
    """

    encoding: str
    separator: str
    names: tuple[str, ...]
    header: bool
    first: tuple[str, ...]
    said: bool  # whether a first line says the separator
    notes: tuple[str, ...] = ()
    out: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: the number of the first (from 1), the line of each in the file, and the cells of each column."""

    row: int
    lines: Sequence[int]
    columns: Sequence[Sequence[str]]


class _Bounded(io.RawIOBase):
    """What a packed file unpacks to, up to a limit. Raises UnusableFile beyond it."""

    def __init__(self, packed: BinaryIO, size: int, largest: int | None) -> None:
        self._file, self._read = gzip.GzipFile(fileobj=packed), 0
        self._most = min(max(FREE, MOST_PACKED * size), largest or 1 << 62)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        try:
            count = self._file.readinto(buffer)
        except (EOFError, OSError, zlib.error) as error:
            raise UnusableFile(f"the gzip file is broken: {error}") from None
        self._read += count
        if self._read > self._most:
            raise UnusableFile(f"unpacked, the file takes more than the {self._most} bytes accepted")
        return count


@contextmanager
def _bytes(path: Path, largest: int | None) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        yield io.BufferedReader(_Bounded(file, path.stat().st_size, largest), BLOCK) if packed else file


def unpacked(path: Path) -> int:
    """How many bytes a packed file says that it takes unpacked (up to 4 GiB); 0 for one that is not packed."""
    with path.open("rb") as file:
        if file.read(2) != GZIP or file.seek(0, 2) < 4:
            return 0
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


@contextmanager
def _text(path: Path, encoding: str, largest: int | None) -> Iterator[TextIO]:
    try:
        with _bytes(path, largest) as file:
            yield io.TextIOWrapper(file, encoding=encoding, newline="")
    except UnicodeError as error:
        raise UnusableFile(f"encoding: the file is not {encoding}: {error}") from None


def _encoding(path: Path, largest: int | None) -> str:
    """The encoding by the file's mark or its zeros; UTF-8 where all of it is; else that of Western Windows."""
    with _bytes(path, largest) as file:
        start = file.read(BLOCK)
    for mark, name in BOMS:
        if start.startswith(mark):
            return name
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 1 and start[first::2].count(0) * 2 > len(start[first::2]):
            return name
    return next((name for name in ("utf-8", "cp1252") if _all_of_it_is(name, path, largest)), "latin-1")


def _all_of_it_is(name: str, path: Path, largest: int | None) -> bool:
    decoder = codecs.getincrementaldecoder(name)()
    with _bytes(path, largest) as file:
        try:
            while block := file.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def form(path: Path, options: Options, largest: int | None = None) -> Form:
    """How a file is written. Raises UnusableFile."""
    encoding = options.encoding or _encoding(path, largest)
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    with _text(path, encoding, largest) as file:
        first = file.readline(LONGEST)
        if first.lstrip("\ufeff \t").lower().startswith(PAGES):
            raise UnusableFile("the name says csv, but the content is a web page or XML")
        said = SEP.fullmatch(first.rstrip("\r\n"))
        sample = "" if said else first
        mark = options.separator or (said[1] if said else separator(sample + file.read(SAMPLED)))
        if first.count(mark) >= MOST_COLUMNS:
            found = first.count(mark) + 1
            raise UnusableFile(f"the first row has {found} columns; at most {MOST_COLUMNS} are accepted")
    with _text(path, encoding, largest) as file:
        table = _rows(file, mark, skip=bool(said))
        start = list(islice(table, 1))
        start += islice(table, max(20, min(LOOKED_AT, CELLS // len(start[0][1])))) if start else []
    if not start:
        raise UnusableFile("the file has no rows: nothing but blank lines")
    above = around.titles(start, options, mark)
    titles, start = start[:above], start[above:]
    made = _formed([row for _, row in start], options, encoding, mark, said=bool(said))
    return _bounded(path, made, titles, start, largest)


def _bounded(path: Path, made: Form, titles: Sequence[Row], start: Sequence[Row], largest: int | None) -> Form:
    """The same without what stands around the rows, which is said."""
    notes, out = list(made.notes), {line for line, _ in titles}
    if titles:
        shown = " / ".join(cell for _, row in titles for cell in row if cell)[:80]
        notes.insert(0, f"the names stand in line {start[0][0]}: what is above them ({shown}) was left out")
    if made.header and around.units(start):
        line, row = start[1]
        notes.append(f"line {line} has words above numbers, such as units ({_shown(row)}): left out")
        out.add(line)
    ends = around.totals(start[1:], _tail(path, made, largest)) if len(start) > around.LEAST_ROWS else []
    ends = ends or ([] if len(start) <= around.LEAST_ROWS else _sum(path, made, start, largest))
    if ends:
        shown = _shown([cell for _, row in ends for cell in row])
        where = ", ".join(str(line) for line, row in ends if any(row))
        notes.append(f"line {where} at the end sums up the rows above ({shown}): left out")
        out.update(line for line, _ in ends)
    return replace(made, notes=tuple(notes), out=frozenset(out)) if out else made


def _shown(row: Sequence[str]) -> str:
    return ", ".join(cell for cell in row if cell)[:80]


def _tail(path: Path, made: Form, largest: int | None) -> list[Row]:
    """The last rows, where each stands on a line of its own."""
    with _text(path, made.encoding, largest) as file:
        last = deque(enumerate(lines(file), 1), maxlen=around.TAIL)
    found: list[Row] = []
    for line, text in last:
        try:
            row = next(csv.reader([text], delimiter=made.separator, skipinitialspace=True, strict=True), [])
        except csv.Error:  # a part of a quote
            found.clear()
            continue
        found += [(line, [cell.strip() for cell in row])] if row else []
    return found


def _sum(path: Path, made: Form, start: Sequence[Row], largest: int | None) -> list[Row]:
    """A nearly empty last row whose numbers are the sums of their columns."""
    tail = _tail(path, made, largest)[-1:]
    cells = around.sums(tail[0][1], start[1:]) if tail else []
    if not cells:
        return []
    columns: dict[int, list[str]] = {place: [] for place, _ in cells}
    for part in parts(path, made, largest):
        for place, column in columns.items():
            column += part.columns[place]
    return tail if all(around.adds_up(cell, columns[place][:-1]) for place, cell in cells) else []


def _formed(start: list[list[str]], options: Options, encoding: str, mark: str, *, said: bool) -> Form:
    first, notes = tuple(start[0]), []
    unnamed = _rows_are_named(start)
    if unnamed:
        header, doubt = True, ""
        start[0] = ["", *start[0]]
    else:
        header, doubt = has_header(start, options, mark)
    if doubt:
        notes.append(doubt)
    if header and len(start) < 2:
        raise UnusableFile("the file has a header and no rows below it")
    if encoding in ("cp1252", "latin-1") and not options.encoding:
        notes.append(f"the file is not UTF-8; it was read as {encoding}: `encoding` says what it is, if that is wrong")
    names = [name or f"Unnamed: {n}" if header else str(n) for n, name in enumerate(start[0])]
    unlike = _unlike(names)
    again = [f"{a!r} is there again: the second is called {b!r}" for a, b in zip(names, unlike, strict=True) if a != b]
    return Form(encoding, mark, tuple(unlike), header, first, said, (*notes, *again))


def _unlike(names: Sequence[str]) -> list[str]:
    """The same, with a number behind each that stood there before, as pandas has it: price, price.1."""
    made: list[str] = []
    for name in names:
        tried = (f"{name}.{n}" if n else name for n in count())
        made.append(next(one for one in tried if one not in made and (one == name or one not in names)))
    return made


def _rows_are_named(start: Sequence[Sequence[str]]) -> bool:
    """Whether each row has one field more than the first, a name of its own, as R writes it."""
    below = start[1:]
    return bool(below) and all(len(row) == len(start[0]) + 1 and row[-1] for row in below)


def separator(sample: str) -> str:
    """The likeliest of the usual separators: the one that cuts all rows into as many fields."""
    begun = sample[: sample.rfind("\n") + 1] or sample
    rows = begun.splitlines()[:200]
    found = {mark: score for mark in MARKS if (score := _evenness(rows, mark))}
    rare = (mark for mark in RARE if (score := _evenness(rows, mark)) and score[0] == 1 and len(rows) > 2)
    if not found and (mark := next(rare, None)):
        return mark
    if not found:
        return max(MARKS, key=sample.partition("\n")[0].count)
    commas = re.findall(r".?,.?", begun[:SAMPLED])
    decimal = all(len(one) == 3 and one[0].isdigit() and one[2].isdigit() for one in commas)
    return max(found, key=lambda mark: (found[mark][0], decimal and mark != ",", found[mark][1]))


def _evenness(some: Sequence[str], mark: str) -> tuple[float, int] | None:
    """The share of rows that have as many fields as most have, and how many those are; None where that is one."""
    try:
        counts = [len(row) for row in csv.reader(some, delimiter=mark, skipinitialspace=True) if row]
    except csv.Error:
        return None
    usual = max(set(counts), key=counts.count, default=1)
    share = counts.count(usual) / max(1, len(counts))
    return (round(share, 2), usual) if usual > 1 and share >= 0.5 else None


def _rows(file: TextIO, mark: str, *, skip: bool) -> Iterator[tuple[int, list[str]]]:
    """The lines with their rows, trimmed. Raises UnusableFile for what is no CSV."""
    reader = csv.reader(lines(file), delimiter=mark, skipinitialspace=mark != " ", strict=True)
    try:
        for row in reader:
            if row and not (skip and reader.line_num == 1):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        why = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        raise UnusableFile(f"line {reader.line_num} is no CSV: {why}") from None


def parts(path: Path, form: Form, largest: int | None = None, *, again: list[int] | None = None) -> Iterator[Part]:
    """The rows below the header, without those that repeat it, whose lines are put into `again`."""
    width, row_number = len(form.names), 1
    most = max(1, min(BATCH, CELLS // width))
    with _text(path, form.encoding, largest) as file:
        table = ((line, row) for line, row in _rows(file, form.separator, skip=form.said) if line not in form.out)
        if form.header:
            next(table, None)
        while some := list(islice(table, most)):
            if form.header:
                repeated = {line for line, row in some if _same(row, form.first)}
                some = [(line, row) for line, row in some if line not in repeated]
                (again if again is not None else []).extend(sorted(repeated))
            if some:
                full = [_filled(line, row, width) for line, row in some]
                yield Part(row_number, [line for line, _ in some], list(zip(*full, strict=True)))
                row_number += len(some)


def _same(row: Sequence[str], first: Sequence[str]) -> bool:
    """Whether a row is the header once more, in capitals or not."""
    return len(row) == len(first) and all(
        a == b or a.casefold() == b.casefold() for a, b in zip(row, first, strict=True)
    )


def _filled(line: int, row: list[str], width: int) -> list[str]:
    if len(row) == width:
        return row
    if any(row[width:]):
        raise UnusableFile(f"line {line} has {len(row)} fields, and the first row has {width}")
    return row[:width] + [""] * (width - len(row))
