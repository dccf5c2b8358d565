"""The tables of `benchmarks.growth` as a picture: `python -m benchmarks.growth.picture [--tables FILE] [--out FILE]`.

Reads those that stand in docs/benchmarks.md and writes docs/pictures/growth.svg, or what is named: so the picture
is that of the tables. What does not grow is a level line.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrtune.report.figures import FAMILIES, MARKS, STYLE

DOCS = Path(__file__).parents[2] / "docs"
LINES = ("-", "--")  # one for each round of the colours
TITLE = re.compile(r"\| (?P<title>.*): ms of CPU \| (?P<sizes>.*) \| exponent \|")


@dataclass(frozen=True, slots=True)
class Grown:
    """Milliseconds of CPU, of each call at each size of what the title says."""

    title: str
    calls: dict[str, dict[int, float]]


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=DOCS / "benchmarks.md")
    parser.add_argument("--out", type=Path, default=DOCS / "pictures" / "growth.svg", help="an SVG, PNG or PDF")
    asked = parser.parse_args()
    draw(list(read(asked.tables.read_text().splitlines())), asked.out)


def read(lines: list[str]) -> Iterator[Grown]:
    """The tables among some lines."""
    for place, line in enumerate(lines):
        if head := TITLE.match(line):
            sizes = [int(size.replace(",", "")) for size in head["sizes"].split(" | ")]
            rows = lines[place + 2 :]
            rows = rows[: next((n for n, row in enumerate(rows) if not row.startswith("|")), len(rows))]
            cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
            calls = {name: dict(zip(sizes, map(float, rest), strict=False)) for name, *rest in cells}
            yield Grown(head["title"], calls)


def draw(grown: list[Grown], path: Path) -> None:
    """Write a picture with a part for each."""
    with rc_context(STYLE | {"svg.fonttype": "none"}):  # text stays text: small, and found by a search
        across = (len(grown) + 1) // 2
        drawn = Figure(figsize=(6.4 * 2, 4.4 * across), layout="constrained")
        parts = drawn.subplots(across, 2, squeeze=False).flatten()
        for axes, one in zip(parts, grown, strict=False):
            _lines(axes, one)
        drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(axes: Axes, grown: Grown) -> None:
    for number, (name, times) in enumerate(grown.calls.items()):
        colour, mark = FAMILIES[number % len(FAMILIES)], MARKS[number % len(MARKS)]
        line = axes.plot(list(times), list(times.values()), LINES[number // len(FAMILIES) % 2], label=name)
        line[0].set(color=colour, marker=mark, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel=grown.title, ylabel="milliseconds of CPU")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.5)


if __name__ == "__main__":
    main()
