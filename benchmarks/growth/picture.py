"""The times of calls over the size of what they are about, as a picture: what does not grow is a level line."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrtune.report.figures import FAMILIES, MARKS, STYLE

LINES = ("-", "--")  # one for each round of the colours


@dataclass(frozen=True, slots=True)
class Grown:
    """Milliseconds of CPU, of each call at each size of what the title says."""

    title: str
    calls: dict[str, dict[int, float]]


def draw(grown: list[Grown], path: Path) -> None:
    """Write a picture with a part for each."""
    with rc_context(STYLE | {"svg.fonttype": "none"}):  # text stays text: small, and found by a search
        drawn = Figure(figsize=(6.4 * len(grown), 4.6), layout="constrained")
        for axes, one in zip(drawn.subplots(1, len(grown), squeeze=False)[0], grown, strict=True):
            _lines(axes, one)
        drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(axes: Axes, grown: Grown) -> None:
    for number, (name, times) in enumerate(grown.calls.items()):
        colour, mark = FAMILIES[number % len(FAMILIES)], MARKS[number % len(MARKS)]
        line = axes.plot(list(times), list(times.values()), LINES[number // len(FAMILIES) % 2], label=name)
        line[0].set(color=colour, marker=mark, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel=grown.title, ylabel="milliseconds of CPU")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
