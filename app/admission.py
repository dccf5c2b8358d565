"""What a job must pass before it is stored, and what it would do: the same checks for both.

`admit` fills in what the job left to its task; `plan` shows the space, the cost and the first curves.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from app import curves, parameters, pointers
from app.problems import invalid
from lrtune.errors import Rejection
from lrtune.search import SpaceExhausted, suggest
from lrtune.space import Axis, Fixed, Range, shown
from lrtune.wire.datasets import FOLDER, SUFFIXES
from lrtune.wire.job import EXTERNAL, Horizon, JobSpec, Metric, Training
from lrtune.wire.results import Cost, Earlier, FirstCurve, Plan, Proposal, TaskSummary, Trial, TrialState, Worker
from lrtune.wire.tasks import BUILT_IN, EXTERNAL_TASK, TaskInfo

FIRST = 5  # proposals that a plan shows
POINTS = 64
UNKNOWN_STEPS = 1000  # stands in for a horizon in epochs, whose steps only a worker knows; curves are shown by progress


def admit(spec: JobSpec, data_dir: Path, announced: Sequence[TaskSummary] = ()) -> JobSpec:
    """The job with everything filled in that its task decides; `announced` are the workers' own. Raises Invalid."""
    if spec.external:
        return _external(spec)
    known: dict[str, TaskInfo | TaskSummary] = {**{one.name: one for one in announced}, **BUILT_IN}
    info = known.get(spec.task.name)
    if info is None:
        names = ", ".join([*BUILT_IN, EXTERNAL, *(one.name for one in announced)])
        detail = f"found the task {shown(spec.task.name)}, which no worker has announced; accepted is one of {names}"
        raise invalid([{"pointer": "/task/name", "detail": detail}])
    params, wrong = _params(spec, info)
    metric = spec.metric or Metric(name=next(iter(info.metrics)))
    wrong += [] if wrong or isinstance(info, TaskSummary) else _missing_file(info, params, data_dir)
    wrong += _wrong_metric(metric, info, params)
    if wrong:
        raise invalid(wrong)
    return spec.model_copy(
        update={
            "task": spec.task.model_copy(update={"params": params}),
            "metric": metric.model_copy(update={"goal": info.metrics[metric.name]}),
            "horizon": spec.horizon or Horizon(steps=info.steps),
        }
    )


def refuse_without_packages(spec: JobSpec, alive: Sequence[Worker]) -> None:
    """Raise Invalid for a task that needs packages which no worker has; with no worker at all it waits."""
    info = BUILT_IN.get(spec.task.name)
    if info is None or not info.needs or not alive or any(info.name in one.tasks for one in alive):
        return
    need = f"pip install 'lrtune[worker,{info.name}]' where a worker runs"
    detail = f"found {shown(info.name)}, for which no worker has the packages; {need}, and start it again"
    raise invalid([{"pointer": "/task/name", "detail": detail}])


def _external(spec: JobSpec) -> JobSpec:
    """A job whose loop the user writes: nobody else knows its metric and its length, or clips unless told to."""
    wrong = _params(spec, EXTERNAL_TASK)[1]
    if spec.metric is None:
        detail = 'found none; the task external needs one, such as {"name": "val_loss", "goal": "minimize"}'
        wrong.append({"pointer": "/metric", "detail": detail})
    elif spec.metric.goal is None:
        detail = "found none; the task external needs one, so accepted is minimize or maximize"
        wrong.append({"pointer": "/metric/goal", "detail": detail})
    if spec.horizon is None or spec.horizon.steps is None:
        found = "none" if spec.horizon is None else "epochs"
        detail = f'found {found}; the task external needs optimizer steps, such as {{"steps": 2000}}'
        wrong.append({"pointer": "/horizon", "detail": detail})
    if spec.training != Training():
        detail = "found settings of the workers' trainer; the task external trains in your own loop, which decides this"
        wrong.append({"pointer": "/training", "detail": detail})
    if spec.warm_start is True:
        detail = "found true, but jobs of the task external may train anything; accepted are the ids of jobs like this"
        wrong.append({"pointer": "/warm_start", "detail": detail})
    if wrong:
        raise invalid(wrong)
    return spec if "clip_norm" in spec.model_fields_set else spec.model_copy(update={"clip_norm": None})


def _params(spec: JobSpec, info: TaskInfo | TaskSummary) -> tuple[dict[str, Any], list[Rejection]]:
    """The task's parameters with their defaults, or what is wrong with them."""
    given = spec.task.params
    if isinstance(info, TaskSummary):
        params, found = parameters.checked(given, info.params)
        return params, [{"pointer": f"/task/params{one['pointer']}", "detail": one["detail"]} for one in found]
    try:
        return info.params.model_validate(given).model_dump(mode="json"), []
    except ValidationError as error:
        below = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        found = pointers.rejections(below, given, info.params.model_json_schema())
    return dict(given), [{"pointer": f"/task/params{one['pointer']}", "detail": one["detail"]} for one in found]


def _missing_file(info: TaskInfo, params: Mapping[str, Any], data_dir: Path) -> list[Rejection]:
    """Whether the data file is missing, where its folder can be seen from here; the workers' may be elsewhere."""
    name = params.get("dataset")
    on_hub = info.name == "huggingface" and PurePath(str(name)).suffix not in SUFFIXES  # a worker's cache may have it
    if name is None or on_hub or not data_dir.is_dir():
        return []
    try:
        there = (data_dir / name).exists()
    except OSError:  # a name that is too long for a file
        there = False
    if there:
        return []
    hidden = (FOLDER, ".")
    files = sorted(path.name for path in data_dir.iterdir() if not path.name.startswith(hidden))
    some = ", ".join(files[:10]) + (f" and {len(files) - 10} more" if len(files) > 10 else "")
    there_are = f"there are {some or 'no files'}, and GET /v1/datasets has what was uploaded"
    detail = f"found no {shown(name)} in the data folder; {there_are}"
    return [{"pointer": "/task/params/dataset", "detail": detail}]


def _wrong_metric(metric: Metric, info: TaskInfo | TaskSummary, params: Mapping[str, Any]) -> list[Rejection]:
    kinds = {"classification": {"val_mae"}, "regression": {"val_accuracy"}, "causal-lm": {"val_accuracy"}}
    missing = kinds.get(str(params.get("kind")), set())
    known = [name for name in info.metrics if name not in missing]
    if metric.name not in known:
        detail = f"found {shown(metric.name)}; the task {info.name} has {', '.join(known)}"
        return [{"pointer": "/metric/name", "detail": detail}]
    goal = info.metrics[metric.name]
    if metric.goal not in (None, goal):
        better = "higher" if goal == "maximize" else "lower"
        detail = f"found {metric.goal}; {metric.name} is better when {better}, so accepted is {goal}, or no goal"
        return [{"pointer": "/metric/goal", "detail": detail}]
    return []


def plan(spec: JobSpec, prior: Sequence[Earlier] = ()) -> Plan:
    """What an admitted job would do, learning from `prior`."""
    return Plan(spec=spec, space=_space(spec), cost=cost(spec), first=_first(spec, prior))


def _space(spec: JobSpec) -> dict[str, Any]:
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


def cost(spec: JobSpec) -> Cost:
    """What a job will take at most."""
    search = spec.budget.most_runs
    total = None if search is None else search + spec.confirm.runs
    steps = spec.horizon.steps if spec.horizon else None
    return Cost(
        search_full_runs=search,
        confirm_full_runs=spec.confirm.runs,
        total_full_runs=total,
        total_steps=None if total is None or steps is None else math.ceil(total * steps),
    )


def _first(spec: JobSpec, prior: Sequence[Earlier]) -> list[FirstCurve]:
    """The first proposals, each asked for while those before it are running."""
    steps = (spec.horizon and spec.horizon.steps) or UNKNOWN_STEPS
    history: list[Trial] = []
    with suppress(SpaceExhausted):
        while len(history) < min(FIRST, spec.budget.trials or FIRST):
            history.append(_running(suggest(spec, history, prior=prior), len(history), steps))
    return [
        FirstCurve(
            configuration=t.configuration, reason=t.why, curve=curves.by_progress(t.configuration, steps, POINTS)
        )
        for t in history
    ]


def _running(proposal: Proposal, number: int, steps: int) -> Trial:
    return Trial(
        number=number,
        role=proposal.role,
        why=proposal.reason,
        state=TrialState.RUNNING,
        configuration=proposal.configuration,
        seed=proposal.seed,
        horizon=max(2, round(proposal.fraction * steps)),
    )
