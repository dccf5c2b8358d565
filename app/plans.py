"""What an admitted job would do: its space, its cost, and the first curves that the search would try."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from app import curves
from lrtune.search import advance, begun, suggest
from lrtune.space import Axis, Fixed, Range
from lrtune.wire.job import AdmittedJob, Objective
from lrtune.wire.results import Cost, FirstCurve, Plan, Trial, WarmStartTrial

FIRST = 5  # proposals that a plan shows, or all that the job asks for
POINTS = 64
# What a metric's name most often says of it; a name with a word of each says nothing.
HIGHER = {
    "acc",
    "accuracy",
    "auc",
    "auroc",
    "bleu",
    "f1",
    "iou",
    "map",
    "precision",
    "psnr",
    "recall",
    "reward",
    "score",
}
LOWER = {"cer", "error", "loss", "mae", "mse", "nll", "perplexity", "ppl", "rmse", "wer"}
UNKNOWN_STEPS = 1000  # stands in for a horizon in epochs, whose steps only a worker knows; curves are shown by progress


def plan(spec: AdmittedJob, warm_start: Sequence[WarmStartTrial] = (), notes: Sequence[str] = ()) -> Plan:
    """What an admitted job would do, learning from the trials of earlier ones; with `notes` on its data.

    The search may think for seconds: ask where no transaction is open.
    """
    said = [*notes, *filter(None, [_other_way(spec.metric), spec.budget.baseline_alone])]
    return Plan(spec=spec, space=_space(spec), cost=cost(spec), first=_first(spec, warm_start), notes=said)


def _other_way(metric: Objective) -> str:
    """What is to be said of a goal that its metric's name contradicts; nothing where it does not."""
    named, goal = {*re.split(r"[^a-z0-9]+", metric.name.lower())}, metric.goal
    ours, other = (LOWER, HIGHER) if goal == "minimize" else (HIGHER, LOWER)
    doubted = bool(named & other) and not named & ours
    return f"the goal is to {goal} {metric.name}: is that what you mean?" if doubted else ""


def _space(spec: AdmittedJob) -> dict[str, Any]:
    space = spec.space()
    return {
        "optimizers": {name: _plainly(axes) for name, axes in space.optimizers.items()},
        "schedules": {name: _plainly(axes) for name, axes in space.schedules.items()},
        **_plainly(space.common),
    }


def _plainly(axes: Mapping[str, Axis]) -> dict[str, Any]:
    return {name: _plain(axis) for name, axis in axes.items()}


def _plain(axis: Axis) -> dict[str, Any]:
    if isinstance(axis, Fixed):
        return {"fixed": axis.value}
    if isinstance(axis, Range):
        return {"range": [axis.low, axis.high], "log": axis.log}
    return {"choice": list(axis.options)}


def cost(spec: AdmittedJob) -> Cost:
    """What a job will take at most."""
    search, total = spec.budget.most_runs, spec.most_runs
    return Cost(
        search_full_runs=search,
        confirm_full_runs=spec.confirm.runs,
        total_full_runs=total,
        total_steps=None if total is None or spec.horizon.steps is None else math.ceil(total * spec.horizon.steps),
    )


def against(spec: AdmittedJob) -> str:
    """What the answer will be compared with, in words."""
    return suggest(spec, [], steps=spec.horizon.steps or UNKNOWN_STEPS).reason


def _first(spec: AdmittedJob, warm_start: Sequence[WarmStartTrial]) -> list[FirstCurve]:
    """The first proposals, each asked for while those before it are running."""
    steps, wanted = spec.horizon.steps or UNKNOWN_STEPS, max(FIRST, 1 + len(spec.try_))
    history: list[Trial] = []
    for number in range(wanted):
        proposal = advance(spec, history, steps=steps, seconds=0.0, warm_start=warm_start).proposal
        if proposal is None:  # no further one fits into the budget, or the space has none
            break
        history.append(begun(proposal, number=number, decision=number))
    return [
        FirstCurve(
            configuration=one.configuration,
            reason=one.why,
            curve=curves.by_progress(one.configuration, steps, POINTS),
        )
        for one in history
    ]
