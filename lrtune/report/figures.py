"""The pictures of a report, by Matplotlib: loss curves, learning-rate curves, and the landscape of peak rates.

Needs the extra `plot`. Colours are Okabe and Ito's, which the colour-blind can tell apart; no meaning rests on colour
alone. A new picture is one function that draws into an axis.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from lrtune.analysis.words import label
from lrtune.errors import Invalid
from lrtune.report.evidence import Evidence
from lrtune.wire.results import Trial, TrialDetail, TrialState

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise Invalid("drawing a report needs Matplotlib: pip install 'lrtune[plot]'") from error

OURS, BASELINE, OTHERS = "#0072B2", "#D55E00", "#9AA0A6"
FAMILIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#4D4D4D")
MARKS = "os^Dv<>P"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "lrtune",  # the same picture for the same evidence
}


def svg(evidence: Evidence) -> str:
    """All pictures as one `<svg>` element, the same for the same evidence."""
    file = io.StringIO()
    with rc_context(STYLE):
        figure(evidence).savefig(file, format="svg", metadata={"Date": None}, transparent=False)
    text = file.getvalue()
    return text[text.index("<svg") :]


def png(evidence: Evidence, title: str) -> bytes:
    """All pictures below a title, to be sent around."""
    file = io.BytesIO()
    with rc_context(STYLE):
        drawn = figure(evidence)
        drawn.suptitle(_plain(title), x=0.01, ha="left", fontsize=11, parse_math=False)
        drawn.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def figure(evidence: Evidence) -> Figure:
    """The three pictures side by side."""
    drawn = Figure(figsize=(12.5, 4.2), layout="constrained")
    losses, rates, landscape = drawn.subplots(1, 3)
    _losses(losses, evidence)
    _rates(rates, evidence)
    _landscape(landscape, evidence)
    return drawn


def _losses(axes: Axes, evidence: Evidence) -> None:
    """The metric over the run."""
    metric = evidence.best.metric
    for trial, style in _styled(evidence):
        seen = [(step, value) for step, value in trial.values(metric) if value is not None]
        if seen:
            axes.plot(*zip(*seen, strict=True), **style)
    values = [v for trial in evidence.drawn for _, v in trial.values(metric) if v is not None]
    if values and min(values) > 0 and max(values) > 8 * min(values):
        axes.set_yscale("log")
    axes.set(title="The metric at every report", xlabel="step", ylabel=_plain(metric))
    if values:
        axes.legend(loc="best", fontsize=8)
    else:
        axes.text(0.5, 0.5, "no run reported on its way", ha="center", transform=axes.transAxes)


def _rates(axes: Axes, evidence: Evidence) -> None:
    """The learning rate over the run."""
    for trial, style in _styled(evidence):
        if trial.curve:
            axes.plot(*zip(*trial.curve, strict=True), **style)
    axes.set_yscale("log")
    axes.set_ylim(bottom=evidence.best.configuration.learning_rate / 1000)
    axes.set(title="The learning rate meanwhile", xlabel="step", ylabel="learning rate")


def _styled(evidence: Evidence) -> Iterable[tuple[TrialDetail, dict[str, Any]]]:
    """The trials to draw, the most important last so that it lies on top, each with its line's style."""
    own, baseline, best = evidence.answer, evidence.baseline, evidence.best
    others = [trial for trial in evidence.drawn if trial not in (own, baseline)]
    for place, trial in enumerate(others):
        yield trial, {"color": OTHERS, "lw": 0.9, "label": None if place else "other trials"}
    if baseline is not None:
        name = label(best.baseline) if best.baseline else "baseline"
        yield baseline, {"color": BASELINE, "lw": 1.8, "ls": "--", "label": name}
    yield own, {"color": OURS, "lw": 2.2, "label": "the answer"}


def _landscape(axes: Axes, evidence: Evidence) -> None:
    """The end value over the peak rate, a line for each family, the plateau shaded."""
    best = evidence.best
    done = [trial for trial in evidence.trials if trial.completed(best.steps)]
    for place, name in enumerate(dict.fromkeys(trial.configuration.kind[1] for trial in done)):
        color, mark = FAMILIES[place % len(FAMILIES)], MARKS[place % len(MARKS)]
        own = [trial for trial in done if trial.configuration.kind[1] == name]
        axes.plot(*zip(*_points(own), strict=True), mark, color=color, ms=3.5, alpha=0.45)
        # Fresh seeds have luck of their own, and the best rates have most of them: the line is that of the search's.
        compared = _points(trial for trial in own if trial.role != "confirm") or _points(own)
        line = _best_at_each(compared, best.goal)
        axes.plot(*zip(*line, strict=True), color=color, marker=mark, ms=4.5, label=name)
    plateau = evidence.findings.families[0].plateau
    if plateau is not None:
        axes.axvspan(plateau.low * 0.97, plateau.high * 1.03, color=OURS, alpha=0.12, lw=0, label="as good as the best")
    history = [t for t in evidence.trials if t.role != "range-test"]  # which is to break
    diverged = [t.configuration.learning_rate for t in history if t.state is TrialState.DIVERGED]
    axes.plot(diverged, [0.97] * len(diverged), "x", color="#4D4D4D", transform=axes.get_xaxis_transform(),
              label="diverged" if diverged else None)  # fmt: skip
    _show_the_good_part(axes, [t.value for t in done if t.value is not None], best.goal)
    axes.set_xscale("log")
    axes.set(title="The end over the peak rate", xlabel="peak learning rate", ylabel=_plain(best.metric))
    axes.legend(loc="best", fontsize=7)


def _points(trials: Iterable[Trial]) -> list[tuple[float, float]]:
    """The peak rate and the end value of some trials."""
    return [(t.configuration.learning_rate, t.value) for t in trials if t.value is not None]


def _best_at_each(points: Sequence[tuple[float, float]], goal: str) -> list[tuple[float, float]]:
    """The best value at each rate, by rate."""
    better = max if goal == "maximize" else min
    return [(rate, better(v for r, v in points if r == rate)) for rate in sorted({r for r, _ in points})]


def _show_the_good_part(axes: Axes, values: Sequence[float], goal: str) -> None:
    """Cut off far outliers: what differs among good runs must be seen."""
    ranked = sorted(values, reverse=goal == "maximize")
    good = ranked[: max(2, (3 * len(ranked)) // 4)]
    room = 0.15 * (abs(good[-1] - good[0]) or abs(good[0]) or 1.0)
    low = min(good)
    axes.set_ylim(
        low - room if low < 0 else max(0.0, low - room), max(good) + room
    )  # nor a loss below zero on the axis


def _plain(text: str) -> str:
    """Text that Matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
