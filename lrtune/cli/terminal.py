"""How jobs, answers and curves look in a terminal. A job followed live is in `lrtune/cli/watch.py`.

Everything here takes the values of `lrtune.wire.results` and gives something that Rich can print. A new view goes here;
the command that shows it goes in `lrtune/cli/commands.py`.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from lrtune.analysis.differences import differing, measures, names, uploads
from lrtune.analysis.words import brief_lift, described, fresh, label, lift, measured, sampled, seeds
from lrtune.wire.datasets import Dataset, DatasetSummary
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.people import ADMIN
from lrtune.wire.report import Findings, Plateau
from lrtune.wire.results import Best, Job, Plan, Trial, Worker

BARS = "▁▂▃▄▅▆▇█"
TIMES = ("at", "seen_at", "created_at", "used_at", "revoked_at")
DAY, SHORT = len("2026-11-29"), 8  # characters of a cell that stay together
ID = re.compile(r"(job|key)-[0-9a-f]{16}")
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille character: left and right, from the top


def plot(rate: Callable[[int], float], steps: int, *, width: int = 60, height: int = 8) -> str:
    """The learning rate over a run, drawn in braille, with the peak and the steps at the axes."""
    columns = 2 * width
    values = [rate(min(steps - 1, column * steps // columns)) for column in range(columns)]
    top = max(values) or 1.0
    levels = [round((1.0 - value / top) * (4 * height - 1)) for value in values]
    cells = [[0x2800] * width for _ in range(height)]
    for column, level in enumerate(levels):
        before = levels[max(0, column - 1)]
        for row in range(min(level, before + 1), max(level, before - 1) + 1):
            cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
    labels = [f"{top:.3g}", *[""] * (height - 2), "0"]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} ┤{''.join(map(chr, row))}" for label, row in zip(labels, cells, strict=True)]
    end = f"{steps} steps"
    axis = [f"{'':>{margin}} └{'─' * width}", f"{'':>{margin}}  0{end:>{width - 1}}"]
    return "\n".join(lines + axis)


def spark(values: Sequence[float], low: float, high: float, *, width: int = 12) -> str:
    """A row of bars between two values, what lies beyond drawn at the end; fewer bars for fewer values."""
    picked = (
        values if len(values) <= width else [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    )
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    return "".join(BARS[max(0, min(len(BARS) - 1, round((value - low) * scale)))] for value in picked)


def curve(points: Sequence[tuple[int, float]], steps: int) -> RenderableType:
    """A curve that came as (step, learning rate) at some of its steps."""
    at = [step for step, _ in points]
    return Drawn(lambda step: points[max(0, bisect_right(at, step) - 1)][1], steps)


class Drawn:
    """The learning rate over a run, drawn as wide as there is room."""

    def __init__(self, rate: Callable[[int], float], steps: int) -> None:
        self._rate, self._steps = rate, steps

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - len("1.23e-05 ┤")
        yield Text(plot(self._rate, self._steps, width=max(10, min(60, room))))


def answer(best: Best, trial: Trial) -> RenderableType:
    """The answer: the configuration, its value, the baseline beside it, and the learning rate over the run."""
    from lrtune.export import recorded  # every exporter, which nothing else here needs

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row("found", described(best.configuration))
    value = Text(measured(best.value, best.interval), style="bold")
    table.add_row(best.metric, Text.assemble(value, f" {fresh(best)}"))
    if best.baseline is not None:
        table.add_row(label(best.baseline), described(best.baseline.configuration))
        table.add_row(best.metric, measured(best.baseline.value, best.baseline.interval))
    table.add_row("so", lift(best))
    table.add_row("cost", f"{best.full_runs:.4g} full runs of {best.steps} steps; found in trial {best.trial}")
    factor, peak = recorded(best, trial).over(best.steps), best.configuration.learning_rate
    return Group(table, Text(), Drawn(lambda step: peak * factor(step), best.steps))


def carried_over(found: AtHorizon) -> RenderableType:
    """The answer at another horizon: the configuration, where its peak lies, how that is known, and the curve."""
    table, chosen = Table(box=None, padding=(0, 2, 0, 0), show_header=False), found.configuration
    table.add_row("found", described(chosen))
    table.add_row("peak", "{:.3g} to {:.3g} hold the best one with 95 %".format(*found.learning_rate_interval))
    table.add_row("so", found.words)
    table.add_row("trained", f"over {found.trained_steps} steps; found in trial {found.trial}")
    factor = chosen.curve.over(found.steps)
    return Group(table, Text(), Drawn(lambda step: chosen.learning_rate * factor(step), found.steps))


def report(found: Findings) -> RenderableType:
    """The answer's report: three questions answered, a line for each family, and the cost."""
    asked = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for advice in found.advice:
        asked.add_row(Text(advice.question, style="bold"), advice.answer)
    columns = ("optimizer", "schedule", "runs", "best", "over", "behind", "at", "as good", "stable to", "diverged from")
    rows = []
    for one in found.families:
        ends = (one.best_value, one.behind, one.best_rate, one.largest_stable, one.smallest_diverged)
        best, behind, at, stable, diverged = ("" if end is None else f"{end:.4g}" for end in ends)
        over, good = seeds(one), _stretch(one.plateau)
        rows.append((one.optimizer, one.family, str(one.runs), best, over, behind, at, good, stable, diverged))
    kinds = Fitting(columns, rows, ("diverged from", "stable to", "runs", "as good", "over"))
    spent = [f"{cost:.3g} {name.replace('_', ' ')}" for name, cost in found.cost if cost and name != "total"]
    cost = f"cost: {found.cost.total:.4g} full runs ({', '.join(spent)})"
    cost += f"; {found.saved.total:.3g} saved by stopping early" if found.saved.total else ""
    longer = [Text(f"over {one.words}") for one in found.horizons]
    return Group(asked, Text(), kinds, Text(), *longer, Text(cost), *([Text(said)] if (said := sampled(found)) else []))


class Fitting:
    """A table that leaves columns out, the `spare` ones in their order, until it fits: a number is never cut.

    Where it does not even so, cells go on below, but for those that are there to be copied: ids, and the columns that
    are `whole`. Where there is no room for these beside the others, each row is written as lines of its own.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        spare: Sequence[str] = (),
        whole: Sequence[str] = (),
    ) -> None:
        self._columns, self._rows, self._spare, self._whole = columns, rows, spare, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        places = list(range(len(self._columns)))
        for left_out in range(len(self._spare) + 1):
            places = [place for place in places if self._columns[place] not in self._spare[:left_out]]
            widths = {place: max(cell_len(cell) for cell in self._cells(place)) for place in places}
            if _room(widths) <= options.max_width:
                break
        least = {place: min(width, self._least(place)) for place, width in widths.items()}
        if _room(least) > options.max_width:
            yield from self._as_lines()
            return
        while _room(widths) > options.max_width:
            widest = max((place for place in places if widths[place] > least[place]), key=lambda place: widths[place])
            widths[widest] -= 1
        table = _folding(*(Column(self._columns[place], overflow="fold", width=widths[place]) for place in places))
        for row in self._rows:
            table.add_row(*(Text(row[place]) for place in places))
        yield table

    def _cells(self, place: int) -> list[str]:
        return [self._columns[place], *(line for row in self._rows for line in row[place].splitlines())]

    def _least(self, place: int) -> int:
        """How wide a column has to be: its ids and its days stay in one piece."""
        name = self._columns[place]
        if name in self._whole:
            return max(cell_len(cell) for cell in self._cells(place))
        return max([DAY if name in TIMES else SHORT, *(len(cell) for cell in self._cells(place) if ID.fullmatch(cell))])

    def _as_lines(self) -> Iterator[RenderableType]:
        names = [name.ljust(max(map(len, self._columns))) for name in self._columns]
        for row in self._rows:
            yield from (Text(f"{name}  {cell}", overflow="fold") for name, cell in zip(names, row, strict=True))
            yield Text()


def _room(widths: Mapping[int, int]) -> int:
    return sum(width + 2 for width in widths.values())


def _folding(*columns: str | Column) -> Table:
    """A table without lines whose cells go on below where there is no room."""
    return Table(*(Column(c, overflow="fold") if isinstance(c, str) else c for c in columns), box=None)


def _stretch(plateau: Plateau | None) -> str:
    if plateau is None:
        return ""
    return f"{plateau.low:.3g} to {plateau.high:.3g}" if plateau.low < plateau.high else f"{plateau.low:.3g}"


def jobs(found: Iterable[Job]) -> Fitting:
    """A list of jobs."""
    listed = tuple(found)
    several = any(job.owner != ADMIN for job in listed)
    columns = ("id", *(["owner"] if several else []), "task", "name", "state", "done", "best", "baseline")
    rows = []
    for job in listed:
        best = job.best
        baseline = best.baseline.value if best and best.baseline else None
        rows.append((
            job.id, *([job.owner] if several else []), job.spec.task.name, job.spec.name,
            job.state, f"{job.progress.fraction:.0%}",
            f"{best.value:.5g}" if best else "", f"{baseline:.5g}" if baseline is not None else "",
        ))  # fmt: skip
    # An id is there to be copied, so it is never cut.
    return Fitting(columns, rows, spare=("baseline",), whole=("id", "state", "done", "best"))


def compared(found: Sequence[Job], data: Iterable[DatasetSummary]) -> RenderableType:
    """Some jobs beside each other: their answers, and what differs in what they ask for."""
    specs = [job.spec for job in found]
    wanted = uploads(specs)
    named = names(one for one in data if one.id in wanted) if wanted else {}
    about = measures(specs, named)
    bests = [job.best for job in found]
    answers = (
        ("id", [job.id for job in found]),
        ("state", [f"{job.state}, {job.progress.fraction:.0%}" for job in found]),
        ("found", [described(best.configuration) if best else "nothing yet" for best in bests]),
        (
            "value",
            [f"{best.metric} {measured(best.value, best.interval)} {fresh(best)}" if best else "" for best in bests],
        ),
        ("so", [brief_lift(best) if best else "" for best in bests]),
        ("cost", [f"{job.progress.full_runs:.3g} full runs" for job in found]),
    )
    asked = differing(specs, named)
    table = Fitting(
        ("", *(job.spec.name or job.id for job in found)), [(name, *cells) for name, cells in (*answers, *asked)]
    )
    same = "" if asked else "\nthey ask for the same"
    alike = len(set(about)) == 1
    words = f"all are about {about[0]}" if alike else "their values do not compare: they are about " + "; ".join(about)
    return Group(table, Text(f"\n{words}{same}"))


def trials(found: Iterable[Trial]) -> Fitting:
    """A list of trials."""
    rows = []
    for trial in found:
        value, steps = "" if trial.value is None else f"{trial.value:.5g}", f"{trial.step}/{trial.horizon}"
        rows.append((str(trial.number), trial.role, trial.state, steps, value, described(trial.configuration)))
    return Fitting(
        ("trial", "role", "state", "steps", "value", "configuration"), rows, whole=("trial", "state", "steps", "value")
    )


def plan(found: Plan) -> RenderableType:
    """What a job would do."""
    cost = found.cost
    total = "bounded by time only" if cost.total_full_runs is None else f"at most {cost.total_full_runs:g} full runs"
    steps = f" ({cost.total_steps:,} steps)" if cost.total_steps else ""
    table = Table("tried first", "why", box=None)
    for first in found.first:
        table.add_row(described(first.configuration), Text(first.reason))
    said = Text("".join(f"{note}\n" for note in found.notes))
    return Group(said, Text(f"cost: {total}{steps}, {cost.confirm_full_runs:g} of them to confirm\n"), table)


def listed(items: Iterable[Mapping[str, Any]], *columns: str) -> Fitting:
    """Plain things of the API as a table of some of their fields."""
    rows = [[_cell(item.get(column, ""), of=column) for column in columns] for item in items]
    return Fitting(columns, rows, whole=("id",))


def workers(found: Iterable[Worker]) -> Fitting:
    """Who is working, and on what."""
    rows = (worker.model_dump(mode="json") for worker in found)
    return listed(rows, "id", "host", "device", "job", "trial", "seen_at")


def _cell(value: object, *, of: str = "") -> str:
    if of in TIMES and isinstance(value, str):
        return value[:16].replace("T", " ")  # UTC, as all times are; `--json` has the rest
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else "" if value is None else str(value)


def status(job: Job) -> str:
    """A job's progress in one line."""
    progress = job.progress
    planned = "" if progress.planned_full_runs is None else f"/{progress.planned_full_runs:g}"
    states = ", ".join(f"{count} {state}" for state, count in progress.trials.items() if count)
    phase = progress.phase if job.state == "running" else job.state
    line = f"{phase}: {progress.full_runs:.1f}{planned} full runs; {states or 'no trial yet'}"
    if job.best is None:
        return line
    baseline = job.best.baseline
    beside = "" if baseline is None or baseline.value is None else f" ({label(baseline)} {baseline.value:.5g})"
    return f"{line}; {job.best.metric} {job.best.value:.5g}{beside}"


def datasets(found: Iterable[DatasetSummary]) -> RenderableType:
    """Datasets, one a row."""
    listed = tuple(found)
    several = any(one.owner != ADMIN for one in listed)
    table = Table("name", *(["owner"] if several else []), "kind", "rows", "columns", "bytes", "id", box=None)
    for one in listed:
        whose = [one.owner] if several else []
        cells = (one.name, *whose, one.kind, str(one.rows), str(one.columns or ""), f"{one.bytes:,}", one.id[:12])
        table.add_row(*map(Text, cells))
    return table


def dataset(found: Dataset) -> RenderableType:
    """One dataset: its columns, its classes, its first rows."""
    whose = "" if found.owner == ADMIN else f", of {found.owner}"
    rows = f"{found.rows:,} row{'s' * (found.rows != 1)}"
    head = f"{found.name}: {found.kind}, {rows}, {found.bytes:,} bytes{whose}\nid {found.id}"
    columns = Table("column", "type", "missing", "different", "what was decided, and why", box=None)
    for one in found.columns:
        many = "many" if one.distinct is None else str(one.distinct)
        why = f"{one.why}; cannot be trained on: {one.unfit}" if one.unfit else one.why
        columns.add_row(one.name, one.type, str(one.missing or ""), many, why)
    first = [Text("  ".join("" if value is None else value for value in row)) for row in found.first]
    classes = ", ".join(f"{name} ({many})" for name, many in found.classes.items())
    said = [f"classes: {classes}"] if classes else []
    said += (
        [f"read with {', '.join(f'{what} {how!r}' for what, how in found.read_as.items())}"] if found.read_as else []
    )
    return Group(Text(head), *([columns] if found.columns else []), *first, *map(Text, said + found.notes))
