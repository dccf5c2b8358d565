"""Tables of the kinds that people have, made on the spot: what is to be found in each, and what is learned from it."""

import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pandas as pd

N = 48
random = np.random.default_rng(13)
A, B = random.normal(size=N).round(3), random.normal(size=N).round(3)
Y = np.where(A > 0, "good", "bad")


@dataclass(frozen=True)
class Kind:
    """`columns` are the types found (in brackets where one is left out), `inputs` what the network takes."""

    content: Callable[[], bytes]
    columns: Mapping[str, str]
    inputs: int
    notes: Sequence[str] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    name: str = "a.csv"
    metric: str = "val_accuracy"


def rows(names: str, *columns: Sequence[object], mark: str = ",") -> bytes:
    lines = [names, *(mark.join(map(str, row)) for row in zip(*columns, strict=True))]
    return ("\n".join(line for line in lines if line) + "\n").encode()


def comma(values: Sequence[float], form: str = ".3f") -> list[str]:
    return [f"{value:{form}}".translate(str.maketrans(".,", ",.")) for value in values]


def framed(index: pd.Index | None = None, **columns: object) -> bytes:
    made = io.BytesIO()
    pd.DataFrame({"a": A, **columns, "y": Y}, index=index).to_parquet(made)
    return made.getvalue()


NUMBERS = {"a": "number", "b": "number", "y": "text"}
DAYS = pd.date_range("2024-12-20", periods=N, freq="D")
MONEY = [f'"(${-v * 5000:,.2f})"' if v < 0 else f'"${v * 5000:,.2f}"' for v in A]
SOFT = [("-", "N/D", "unknown")[i % 3] if i % 6 == 0 else v for i, v in enumerate(B)]

KINDS: Mapping[str, Kind] = {
    "years as names": Kind(
        lambda: rows("land,2019,2020,y", [f"c{i % 5}" for i in range(N)], A, B, Y),
        {"land": "text", "2019": "number", "2020": "number", "y": "text"},
        inputs=7,
    ),
    "years above whole numbers": Kind(
        lambda: rows("land,1990,1995,2000", "wxyz" * 12, *(np.arange(N) * k + 1500 for k in (9, 7, 31))),
        {"land": "text", "1990": "number", "1995": "number", "2000": "number"},
        inputs=6,
        metric="val_mae",
    ),
    "a title, a blank line, names, units and a total, as Excel exports": Kind(
        lambda: (
            b"Quarterly report;;\n;;\n"
            + rows("a;b;y\nkg;mm;-", [f"{v + 9:.2f}" for v in A], [f"{v + 9:.2f}" for v in B], Y, mark=";")
            + b"Summe;568.42;\n;;\n"
        ),
        NUMBERS,
        inputs=2,
        notes=[
            "the names stand in line 3: what is above them (Quarterly report) was left out",
            "line 4 has words above numbers, such as units (kg, mm, -): left out",
            "line 53 at the end sums up the rows above (Summe, 568.42): left out",
        ],
    ),
    "a sum at the end without a word": Kind(
        lambda: rows("k,n,y", "uvw" * 16, range(N), Y) + f",{sum(range(N))},\n".encode(),
        {"k": "text", "n": "number", "y": "text"},
        inputs=4,
        notes=["line 50 at the end sums up the rows above (1128): left out"],
    ),
    "codes with zeros in front": Kind(
        lambda: rows("a,b,y", [f"0{1067 + i % 3}" for i in range(N)], B, Y),
        {"a": "text", "b": "number", "y": "text"},
        inputs=4,
        notes=["'a': words: numbers of one length with zeros in front are codes"],
    ),
    "a number of the row, and -999 for nothing": Kind(
        lambda: rows("id,b,y", range(1, N + 1), [-999 if i % 9 == 0 else v for i, v in enumerate(B)], Y),
        {"id": "number", "b": "number", "y": "text"},
        inputs=2,
        notes=["'id' counts the rows", "'b' is -999 in 6 rows, far off the rest: where it means nothing, name it in"],
    ),
    "two columns of one name": Kind(
        lambda: rows("a,a,y", A, B, Y),
        {"a": "number", "a.1": "number", "y": "text"},
        inputs=2,
        notes=["'a' is there again: the second is called 'a.1'"],
    ),
    "two odd cells among few different numbers": Kind(
        lambda: rows("a,b,y", ["odd" if i == 7 else "even" if i == 9 else i % 12 for i in range(N)], B, Y),
        NUMBERS,
        inputs=3,
        notes=["'a': numbers; 2 of 48 values are none and taken as missing"],
    ),
    "no header": Kind(lambda: rows("", A, B, Y), {"0": "number", "1": "number", "2": "text"}, inputs=2),
    "numbers as pandas names columns": Kind(
        lambda: rows("0,1,2", A, B, Y),
        {"0": "number", "1": "number", "2": "text"},
        inputs=2,
        notes=[
            "the first row (0, 1, 2) was taken for the names of the columns; where that is wrong, `header` is false"
        ],
    ),
    "files laid end to end": Kind(
        lambda: rows("a,b,y", A, B, Y) + rows("a,b,y", A, B, Y),
        NUMBERS,
        2,
        ["the header stands again on line 50: left"],
    ),
    "decimal comma": Kind(
        lambda: rows("a;b;y", comma(A), comma(B), comma(A + 9), mark=";"),
        {"a": "number", "b": "number", "y": "number"},
        inputs=2,
        notes=["numbers have a decimal comma"],
        metric="val_mae",
    ),
    "decimal comma without a header": Kind(
        lambda: rows("", comma(A), comma(B), Y, mark=";"), {"0": "number", "1": "number", "2": "text"}, inputs=2
    ),
    "points between thousands": Kind(
        lambda: rows("a;b;y", comma(A * 10_000 + 50_000, ",.0f"), comma(B * 9_000, ",.2f"), Y, mark=";"), NUMBERS, 2
    ),
    "one odd cell": Kind(
        lambda: rows("a,b,y", ["oops" if i == 30 else v for i, v in enumerate(A)], B, Y),
        NUMBERS,
        inputs=3,
        notes=["'a': numbers; 1 of 48 values is none and taken as missing (row 31 (line 32 of the file): 'oops')"],
    ),
    "words for nothing": Kind(
        lambda: rows("a,b,y", A, SOFT, Y),
        NUMBERS,
        inputs=3,
        notes=["'b': numbers; 8 of 48 values are none and taken as missing (row 1 (line 2 of the file): '-'; "],
    ),
    "too many odd cells": Kind(
        lambda: rows("a,b,y", A, ["3+" if i % 4 == 3 else i % 4 for i in range(N)], Y),
        {"a": "number", "b": "text", "y": "text"},
        inputs=5,
        notes=["'b': words, although 36 of 48 values are numbers: row 4 (line 5 of the file): '3+'"],
    ),
    "money, thousands, per cent": Kind(
        lambda: rows("a,b,y", MONEY, [f"{v:.1f} %" for v in B], Y),
        NUMBERS,
        inputs=2,
        notes=["'a': numbers whose thousands are set off by commas: money ($)", "'b': numbers: per cent"],
    ),
    "Swiss thousands": Kind(
        lambda: rows("a,b,y", [f"CHF {v * 9000:,.2f}".replace(",", "'") for v in A], B, Y), NUMBERS, 2
    ),
    "a column that is nearly empty": Kind(
        lambda: rows("a,b,y", A, ["call back" if i == 2 else "" for i in range(N)], Y),
        {"a": "number", "b": "text", "y": "text"},
        inputs=1,
        notes=["'b' has 1 value in 48 rows, so it says next to nothing"],
        params={"validation": {"column": "b", "value": "call back"}},
    ),
    "an index without a name": Kind(
        lambda: rows(",a,b,y", range(N), A, B, Y), {"[Unnamed: 0]": "number"} | NUMBERS, 2, ["an index without a name"]
    ),
    "an index that was written twice": Kind(
        lambda: rows("Unnamed: 0.1,Unnamed: 0,a,b,y", range(N), range(7, N + 7), A, B, Y),
        {"[Unnamed: 0.1]": "number", "[Unnamed: 0]": "number"} | NUMBERS,
        inputs=2,
    ),
    "names of rows as R writes them": Kind(
        lambda: rows('"a","b","y"', [f'"car {i}"' for i in range(N)], A, B, Y), {"[Unnamed: 0]": "text"} | NUMBERS, 2
    ),
    "an index with a name": Kind(
        lambda: pd.DataFrame({"a": A, "b": B, "y": Y}, index=pd.Index(B * 2, name="c")).to_csv().encode(),
        {"c": "number"} | NUMBERS,
        inputs=3,
    ),
    "columns without name or values at the end": Kind(
        lambda: rows("a,b,y,,", A, B, Y, [""] * N, [""] * N), NUMBERS, 2, ["'Unnamed: 3' has no name and no values"]
    ),
    "dates": Kind(
        lambda: rows("a,b,y", [f"{day:%d.%m.%Y}" for day in DAYS], B, Y),
        {"a": "date", "b": "number", "y": "text"},
        inputs=4 + 1,
    ),
    "moments with zones": Kind(
        lambda: rows("a,b,y", [f"2024-03-{2 + i % 9:02}T{i % 24:02}:30:00+02:00" for i in range(N)], B, Y),
        {"a": "date", "b": "number", "y": "text"},
        inputs=3 + 1,
    ),
    "American dates": Kind(
        lambda: rows("a,b,y", [f"{day:%m/%d/%Y} 2:{day.day:02} PM" for day in DAYS], B, Y),
        {"a": "date", "b": "number", "y": "text"},
        inputs=4 + 1,
    ),
    "spans of time": Kind(
        lambda: rows("a,b,y", [f"{i % 3} days 0{i % 7}:30:00" for i in range(N)], B, Y), NUMBERS, inputs=2
    ),
    "flags": Kind(
        lambda: rows("a,b,y", ["TRUE" if v > 0 else "FALSE" for v in A], B, Y),
        {"a": "flag", "b": "number", "y": "text"},
        inputs=2,
    ),
    "infinite numbers": Kind(
        lambda: rows("a,b,y", ["-inf" if i in (4, 5, 6) else v for i, v in enumerate(A)], B, Y),
        NUMBERS,
        inputs=3,
        notes=["3 infinite numbers are taken as missing (row 5 (line 6 of the file))"],
    ),
    "numbers of twenty digits": Kind(
        lambda: rows("a,b,y", [f"10000000000000000{i:03}" for i in range(N)], B, Y),
        {"a": "text", "b": "number", "y": "text"},
        inputs=39,
        notes=["'a': words: whole numbers too long to be told apart"],
    ),
    "what Excel writes first": Kind(lambda: b"sep=;\r\n" + rows("a;b;y", A, B, Y, mark=";"), NUMBERS, 2),
    "tabs in UTF-16": Kind(lambda: rows("a\tb\ty", A, B, Y, mark="\t").decode().encode("utf-16"), NUMBERS, 2),
    "Windows-1252": Kind(
        lambda: rows("größe,b,y", A, B, Y).decode().encode("cp1252"),
        {"größe": "number", "b": "number", "y": "text"},
        inputs=2,
        notes=["the file is not UTF-8; it was read as cp1252"],
    ),
    "packed": Kind(lambda: gzip.compress(rows("a,b,y", A, B, Y)), NUMBERS, 2, name="a.csv.gz"),
    "quotes around commas and line ends": Kind(
        lambda: rows("a,b,y", A, [f'"x{i % 2}, ""so""\nsaid"' for i in range(N)], Y),
        {"a": "number", "b": "text", "y": "text"},
        inputs=3,
    ),
    "spaces between": Kind(lambda: rows("a b y", A, B, Y, mark=" "), NUMBERS, 2),
    "Parquet with pandas' index": Kind(
        lambda: framed(pd.Index([f"r{i}" for i in range(N)]), b=B),
        {"[__index_level_0__]": "text"} | NUMBERS,
        inputs=2,
        name="a.parquet",
    ),
    "Parquet with a named index": Kind(
        lambda: framed(pd.Index([f"c{i % 3}" for i in range(N)], name="land"), b=B),
        {"land": "text"} | NUMBERS,
        inputs=5,
        name="a.parquet",
    ),
    "Parquet with a column of nothing": Kind(
        lambda: framed(b=[None] * N),
        {"a": "number", "[b]": "empty", "y": "text"},
        1,
        ["'b' has no values"],
        name="a.pq",
    ),
    "Parquet with decimals and bytes": Kind(
        lambda: framed(b=[Decimal(f"{v:.2f}") for v in B], c=[b"red", b"blue"] * 24),
        {"a": "number", "b": "number", "c": "text", "y": "text"},
        inputs=4,
        name="a.parquet",
    ),
    "Parquet with dates, spans, categories and numbers in words": Kind(
        lambda: framed(
            d=DAYS,
            s=pd.to_timedelta(np.arange(N), unit="h"),
            c=pd.Categorical(["x", "z"] * 24),
            m=[f"${v}" for v in B],
        ),
        {"a": "number", "d": "date", "s": "number", "c": "text", "m": "number", "y": "text"},
        inputs=1 + 4 + 1 + 2 + 1,
        name="a.parquet",
    ),
}
