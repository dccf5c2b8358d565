"""What one cell says, however it is written; and that no text whatsoever breaks the reader of tables."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import UnusableFile
from lrtune.uploads import cells, describe, kind_of


@given(st.floats(-1e9, 1e9).map(lambda value: round(value, 2)), st.sampled_from([".", ","]), st.sampled_from("$€£"))
def test_a_number_is_read_however_it_is_written(value: float, decimal: str, sign: str) -> None:
    other = "," if decimal == "." else "."
    for form in (
        f"{value:,.2f}",
        f"{value:.2f}",
        f"{value:,.2f}".replace(",", "'"),
        f"{value:,.2f}".replace(",", "\u00a0"),
    ):
        text = form.replace(",", "\0").replace(".", decimal).replace("\0", other)
        bare = text.removeprefix("-")
        for written in (text, f"{sign}{text}", f"{text} {sign}", f"({bare})" if value < 0 else f"{sign} {bare}"):
            assert cells.number(written, decimal) == value, written
        assert cells.number(f"{text}%", decimal) == pytest.approx(value / 100)


@given(st.text(max_size=12))
def test_no_cell_breaks_the_reader(cell: str) -> None:
    for decimal in (".", ","):
        value = cells.number(cell, decimal)
        assert math.isnan(value) or isinstance(value, float)
    assert math.isnan(cells.span(cell)) or ":" in cell or "day" in cell
    assert isinstance(cells.like_a_date(cell), bool)


@given(st.lists(st.lists(st.text(max_size=6), min_size=1, max_size=4), min_size=1, max_size=8), st.sampled_from(",;\t"))
def test_any_text_is_a_table_or_a_sentence(tmp_path_factory: Any, table: list[list[str]], mark: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join(mark.join(row) for row in table), encoding="utf-8", errors="replace")
    try:
        found = describe(path, kind_of("any.csv"), largest=10**6)
    except UnusableFile as error:
        refused = str(error)
    else:
        assert found.rows >= 1
        return
    assert "Error" not in refused


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [("1:30", 5400), ("1:30 PM", 48600), ("12:00 am", 0), ("2 days 00:00:01", 172801), ("-1 days +23:59:59", -1)],
)
def test_a_span_of_time_is_seconds(cell: str, seconds: float) -> None:
    assert cells.span(cell) == seconds


@pytest.mark.parametrize(
    "cell", ["", "12", "25:61", "1.2.3.4", "abc", "12-05", "$", "()", "1,2,3", "0,942,1", "1_000", "%"]
)
def test_what_is_no_number_is_none(cell: str) -> None:
    assert math.isnan(cells.span(cell))
    assert cell in ("12",) or math.isnan(cells.number(cell, "."))


@pytest.mark.parametrize(
    ("sample", "unit"), [(["5 kg", "7.5 kg"], "kg"), (["5 kg", "7 m"], ""), (["5 %"], ""), (["5 €"], ""), (["x"], "")]
)
def test_a_unit_is_what_all_numbers_have_behind_them(sample: list[str], unit: str) -> None:
    assert cells.unit_of(sample) == unit


@pytest.mark.parametrize(
    ("odd", "written", "why"),
    [
        ("k, A", "{}.{}", "numbers; "),
        ("fehlt", "{},{}", "numbers with a decimal comma; "),
        ("k.A.", "{}{}", "numbers; "),
    ],
)
def test_a_word_does_not_say_how_the_numbers_beside_it_are_written(
    tmp_path: Path, odd: str, written: str, why: str
) -> None:
    amounts = [written.format(1 + row % 9, 101 + row) for row in range(120)]
    amounts[7] = amounts[47] = odd
    path = tmp_path / "a.csv"
    path.write_text("a;b\n" + "\n".join(f"{row};{amount}" for row, amount in enumerate(amounts)), encoding="utf-8")
    assert describe(path, kind_of("a.csv"), largest=10**6).columns[1].why.startswith(why)
