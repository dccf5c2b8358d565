"""What the answers of jobs are worth, by the grids of `benchmarks.grid`: `python -m benchmarks.live --answers DIR`.

A job with everything as it comes, confirming included, is given to a worker (`worker`) and to a plain loop over HTTP
(`loop`). Its answer is then trained again by the grid's own loop, over as many seeds as the grid's leaders had, none of
which the job had seen: their mean is the truth. Regret is how far that lies above the grid's best, in per cent. An
interval holds where the truth lies inside, once it is wider by what the truth, a mean over few seeds too, is uncertain
by: by sqrt(1 + the answer's seeds / the truth's). `cosines` are as many cosine runs with a warm-up of 5 % as the loop's
job had paid for, at rates drawn at random from the job's range (log uniform), the best of which is its answer.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks import grid, stages
from benchmarks.live_study import worked
from benchmarks.live_tasks import TASKS, Live
from lrtune.analysis import paired
from lrtune.analysis.answer import best as best_of
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Best, Trial

WAYS = ("worker", "loop", "cosines")
Ends = tuple[float, float] | None


@dataclass(frozen=True)
class Answer:
    """What one way came to on one task with one seed.

    `truth` and `true_lift` are means over `judges` seeds that it had not seen, of its configuration and of the baseline
    minus that; `best` is the grid's; `families` of `of` were trained to the end; `paid` is in full runs. `value` and
    `lift` are over `seeds` fresh seeds each.
    """

    task: str
    way: str
    seed: int
    configuration: str
    truth: float
    best: float
    paid: float
    interval: Ends = None
    lift: float | None = None
    lift_interval: Ends = None
    true_lift: float = math.nan
    families: int = 0
    of: int = 0
    seconds: float = 0.0
    value: float | None = None
    seeds: tuple[int, int] = (0, 0)
    judges: int = grid.SEEDS

    @property
    def holds(self) -> bool:
        """Whether the interval of its value holds the truth."""
        return inside(self.interval, self.value, self.truth, self.seeds[0] / self.judges)

    @property
    def lift_holds(self) -> bool:
        """Whether the interval of the lift does."""
        return inside(self.lift_interval, self.lift, self.true_lift, self.seeds[1] / self.judges)

    @property
    def regret(self) -> float:
        """How far the truth lies above the grid's best, in per cent of that."""
        return 100 * (self.truth / self.best - 1)

    @property
    def width(self) -> float:
        """How wide the interval is, in per cent of the grid's best."""
        return 100 * (self.interval[1] - self.interval[0]) / self.best if self.interval else math.nan


def job(live: Live, task: object, seed: int, full_runs: float) -> dict[str, object]:
    """A job that leaves everything as it is but its budget and its seed."""
    given: dict[str, object] = {
        "task": task,
        "horizon": {"steps": live.steps},
        "search": {"seed": seed},
        "budget": {"full_runs": full_runs},
    }
    return {**stages.JOB, **given, "confirm": {}}


def asked(way: str, live: Live, truth: grid.Truth, seed: int, full_runs: float, data: Path) -> tuple[Best, list[Trial]]:
    """The answer of a job, and its trials."""
    spec = job(live, live.spec() if way == "worker" else "external", seed, full_runs)
    admitted = AdmittedJob.model_validate(spec)
    if way == "worker":
        ended = list(worked(admitted, data))
    else:
        with tempfile.TemporaryDirectory(prefix="live-") as folder:
            url = f"sqlite:///{folder}/lrtune.db"
            with stages.served(url) as client:
                ended = stages.history(url, stages.by_loop(client, spec, truth.task, {}))
    paid = sum(trial.cost for trial in ended) / live.steps
    found = best_of(admitted, ended, steps=live.steps, full_runs=paid)
    if found is None:
        raise SystemExit(f"{live.name} {way} seed {seed}: no answer")
    return found, ended


def answered(way: str, live: Live, truth: grid.Truth, best: float, seed: int, args: argparse.Namespace) -> Answer:
    """Let a job come to its answer, and learn the truth about it."""
    began = time.perf_counter()
    found, ended = asked(way, live, truth, seed, args.full_runs, args.answers)
    lift, mean = paired.lift(found), fmean(truth.over(found.configuration, args.truth))
    reference = fmean(truth.over(found.baseline.configuration, args.truth)) if found.baseline else math.nan
    families = {trial.configuration.kind[1] for trial in ended if trial.completed(live.steps)}
    return Answer(
        task=live.name,
        way=way,
        seed=seed,
        configuration=found.configuration.model_dump_json(),
        truth=mean,
        best=best,
        paid=round(found.full_runs, 2),
        interval=found.interval,
        lift=lift.difference if lift else None,
        lift_interval=lift.interval if lift else None,
        true_lift=reference - mean,
        families=len(families),
        of=len(grid.space(live)[0]),
        value=found.value,
        seeds=(len(found.seeds), lift.seeds if lift else 0),
        judges=args.truth,
        seconds=round(time.perf_counter() - began, 1),
    )


def cosines(live: Live, truth: grid.Truth, best: float, seed: int, runs: int, args: argparse.Namespace) -> Answer:
    """The best of some cosines at random rates, each trained once."""
    began, draw, rates = time.perf_counter(), random.Random(seed), grid.space(live)[1]
    ends = math.log(rates[0]), math.log(rates[-1])
    some = [grid.at("cosine", float(f"{math.exp(draw.uniform(*ends)):.4g}")) for _ in range(runs)]
    found = min(some, key=partial(truth.value, seed=seed))
    mean, seconds = fmean(truth.over(found, args.truth)), round(time.perf_counter() - began, 1)
    return Answer(live.name, "cosines", seed, found.model_dump_json(), mean, best, float(runs), seconds=seconds)


def said(one: Answer) -> Answer:
    """Print what one way came to."""
    chosen = Configuration.model_validate_json(one.configuration)
    words = [f"{chosen.kind[1]} at {chosen.learning_rate:.4g}: {one.truth:.4f}, regret {one.regret:+.2f} %"]
    if one.interval:
        low, high = one.interval
        words.append(f"interval {low:.4f} to {high:.4f} {'holds' if one.holds else 'misses'} it")
    if one.lift_interval:
        low, high = one.lift_interval
        words.append(f"lift {one.true_lift:.4f}, {'held' if one.lift_holds else 'missed'} by {low:.4f} to {high:.4f}")
    if one.of:
        words.append(f"{one.families} of {one.of} families to their ends")
    print(
        f"{one.task} {one.way} seed {one.seed}: {', '.join(words)}, {one.paid:g} runs, {one.seconds:.0f} s", flush=True
    )
    return one


def inside(ends: Ends, value: float | None, true: float, unsure: float) -> bool:
    """Whether an interval around a value holds a truth whose variance is so much of the value's."""
    if ends is None:
        return False
    value = fmean(ends) if value is None else value
    wider = math.sqrt(1 + unsure)
    return value - wider * (value - ends[0]) <= true <= value + wider * (ends[1] - value)


def row(name: str, group: Sequence[Answer], beside: Mapping[tuple[str, int], Answer]) -> str:
    """One line of the table: the answers of one way, on one task or on all."""
    cells = [f"{len(group)}", f"{median(one.regret for one in group):+.2f}", f"{max(one.regret for one in group):+.2f}"]
    for kind, held in (("interval", "holds"), ("lift_interval", "lift_holds")):
        known = [one for one in group if getattr(one, kind)]
        cells.append(f"{sum(getattr(one, held) for one in known)} of {len(known)}" if known else "–")
    known = [one for one in group if one.interval]
    lifts = [100 * one.true_lift / one.best for one in known]
    cells.append(f"{median(one.width for one in known):.1f} / {median(lifts):.1f}" if known else "–")
    of = sum(one.of for one in group)
    cells.append(f"{sum(one.families for one in group) / of:.0%}" if of else "–")
    pairs = [other.regret - one.regret for one in group if (other := beside.get((one.task, one.seed))) is not None]
    error = stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    cells.append(f"{fmean(pairs):.2f} ± {error:.2f}" if pairs and group[0].way != "cosines" else "–")
    cells.append(f"{fmean(one.paid for one in group):.1f}")
    return f"| {name} | {group[0].way} | {' | '.join(cells)} |"


def table(answers: Sequence[Answer]) -> str:
    """The answers as a Markdown table, by task and in all; per cents are of the grid's best."""
    head = (
        "| task | way | answers | regret %, median | worst | interval holds | of the lift | width / lift, % "
        "| families | better than cosines by, % | full runs |"
    )
    beside = {(one.task, one.seed): one for one in answers if one.way == "cosines"}
    groups: dict[tuple[str, str], list[Answer]] = {}
    for name in (*TASKS, "all"):
        for one in answers:
            if name in (one.task, "all"):
                groups.setdefault((name, one.way), []).append(one)
    lines = [row(name, group, beside) for (name, _), group in groups.items()]
    return "\n".join([head, "|" + " --- |" * 11, *lines])


def report(args: argparse.Namespace) -> None:
    """Ask every way on every task with every seed, and print a line for each and the table; what is known stays."""
    file = args.json or args.answers / "answers.json"
    answers = [Answer(**one) for one in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
    known = {(one.task, one.way, one.seed): one for one in answers}
    for name in args.tasks.split(","):
        live = TASKS[name]
        truth = grid.Truth(live, args.answers, args.answers / f"grid-{name}.json")
        best = grid.best(truth, grid.LEADERS, args.truth)[1]
        for seed in range(args.seeds):
            for way in args.ways.split(","):
                if (name, way, seed) in known:
                    continue
                if way == "cosines":
                    paid = known[name, "loop", seed].paid if (name, "loop", seed) in known else args.full_runs
                    one = cosines(live, truth, best, seed, round(paid), args)
                else:
                    one = answered(way, live, truth, best, seed, args)
                known[name, way, seed] = said(one)
                file.write_text(json.dumps([asdict(each) for each in known.values()], indent=1), encoding="utf-8")
    print("\n" + table(list(known.values())))
