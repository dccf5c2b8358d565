"""What a job must pass before it is stored: one sequence of checks, whoever brings it (the API, a form, an import).

`admit` fills in what the job left to its task. What an admitted job would do says `plans.py`. A new check goes here.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import parameters, pointers, table_checks, text_checks, uploaded
from app.problems import invalid
from app.settings import Settings
from lrtune import search
from lrtune.errors import Rejection, UnusableFile
from lrtune.optimizers import OPTIMIZERS
from lrtune.space import shown
from lrtune.store import datasets, tasks, workers
from lrtune.uploads import mirror
from lrtune.uploads.places import below
from lrtune.wire.datasets import SUFFIXES
from lrtune.wire.job import EXTERNAL, AdmittedJob, Horizon, JobSpec, Metric, Training
from lrtune.wire.partial import OwnSettings, PartialConfiguration
from lrtune.wire.people import ADMIN
from lrtune.wire.results import TaskSummary, Worker
from lrtune.wire.tasks import BUILT_IN, EXTERNAL_TASK, HuggingfaceParams, TabularParams, TaskInfo, TextParams


def admit(
    tx: Session,
    spec: JobSpec,
    data_dir: Path,
    *,
    hold: bool = True,
    to_train: bool = True,
    mine: str = ADMIN,
    only: str | None = None,
) -> AdmittedJob:
    """The job with everything filled in that it left to its task. Raises Invalid.

    Of datasets that are called the same it has `mine`; where `only` somebody's are seen, theirs. With `hold` nobody
    takes its dataset away until the transaction ends, for which that must be one that writes. A job that was done
    elsewhere is not `to_train`, and needs no worker.
    """
    mirror.fetch(data_dir, _named(spec))
    spec = uploaded.pinned(tx, spec, data_dir, hold=hold, mine=mine, only=only)
    mirror.fetch(data_dir, _named(spec))
    if spec.external:
        return _external(spec)
    announced = tasks.known(tx)
    known: dict[str, TaskInfo | TaskSummary] = {**{one.name: one for one in announced}, **BUILT_IN}
    info = known.get(spec.task.name)
    if info is None:
        names = ", ".join([*BUILT_IN, EXTERNAL, *(one.name for one in announced)])
        detail = f"found the task {shown(spec.task.name)}, which no worker has announced; accepted is one of {names}"
        raise invalid([{"pointer": "/task/name", "detail": detail}])
    params, wrong = _params(spec, info)
    command = isinstance(info, TaskSummary) and info.command
    wrong += _left_to_the_loop(spec, info.name, "by a command") if command else _no_command(spec)
    metric = spec.metric or Metric(name=next(iter(info.metrics)))
    wrong += [] if wrong or isinstance(info, TaskSummary) else _missing_files(tx, info, params, data_dir, only)
    table = params if wrong or info is not BUILT_IN["tabular"] else _table(tx, params, data_dir, wrong)
    wrong += [] if wrong else _text(info, params, data_dir)
    wrong += _wrong_metric(metric, info, table)
    wrong += [] if spec.horizon else _no_shorter(spec, info.steps)
    if wrong:
        raise invalid(wrong)
    if to_train:
        alive = workers.alive(tx)
        if isinstance(info, TaskInfo):
            _refuse_without_packages(info, alive)
        if not command:
            _refuse_without_optimizers(spec, alive)
    return _admitted(
        spec,
        task=spec.task.model_copy(update={"params": params, "command": command}),
        metric={
            "name": metric.name,
            "goal": info.metrics[metric.name],
            "range": info.ranges.get(metric.name, metric.range),
        },
        horizon=spec.horizon or Horizon(steps=info.steps),
        **(_clip_if_asked(spec) if command else {}),
    )


def require_webhooks(spec: JobSpec, settings: Settings) -> None:
    """Raise Invalid for a job that wants somebody told of its end by a server that could not sign it."""
    if spec.webhook is not None and settings.webhook_secret is None:
        detail = "found one, and this server has no LRTUNE_WEBHOOK_SECRET to sign with; accepted is null"
        raise invalid([{"pointer": "/webhook", "detail": detail}])


def _admitted(spec: JobSpec, **known: Any) -> AdmittedJob:
    """The job with what is known of it, and its baseline and what it wants tried filled in. Raises Invalid."""
    given = {field.alias or name: getattr(spec, name) for name, field in JobSpec.model_fields.items()}
    admitted = AdmittedJob.model_validate(given | known)
    if wrong := search.refused(admitted):
        raise invalid(wrong)
    own = admitted.baseline and OwnSettings.of(search.reference(admitted))
    asked = [PartialConfiguration.of(search.filled(admitted, part)) for part in admitted.try_]
    return admitted.model_copy(update={"baseline": own, "try_": asked})


def _refuse_without_packages(info: TaskInfo, alive: Sequence[Worker]) -> None:
    """Raise Invalid for a task that needs packages which no worker has; with no worker at all it waits."""
    if not info.needs or not alive or any(info.name in one.tasks for one in alive):
        return
    need = f"pip install 'lrtune[worker,{info.name}]' where a worker runs"
    detail = f"found {shown(info.name)}, for which no worker has the packages; {need}, and start it again"
    raise invalid([{"pointer": "/task/name", "detail": detail}])


def _refuse_without_optimizers(spec: JobSpec, alive: Sequence[Worker]) -> None:
    """Raise Invalid for optimizers from packages that no worker for this task has; with no worker at all they wait."""
    own = spec.baseline and spec.baseline.given().get("optimizer")
    asked = [(f"/optimizers/{place}", one.name) for place, one in enumerate(spec.optimizers)]
    asked += [("/baseline/optimizer", own["name"])] if own else []
    able = [one for one in alive if spec.task.name in one.tasks]
    wrong: list[Rejection] = []
    for pointer, name in asked:
        packaged = OPTIMIZERS[name].packaged
        if packaged and able and not any(workers.able(name) in one.tasks for one in able):
            need = "pip install 'lrtune[worker,optimizers]' where a worker runs"
            detail = f"found {name}, for which no worker has the package {packaged[0]}; {need}, and start it again"
            wrong.append({"pointer": pointer, "detail": detail})
    if wrong:
        raise invalid(wrong)


def _external(spec: JobSpec) -> AdmittedJob:
    """A job whose loop the user writes: nobody else knows its metric and its length, or clips unless told to."""
    wrong = _params(spec, EXTERNAL_TASK)[1] + _no_command(spec)
    if spec.metric is None:
        detail = 'found none; the task external needs one, such as {"name": "val_loss", "goal": "minimize"}'
        wrong.append({"pointer": "/metric", "detail": detail})
    elif spec.metric.goal is None:
        detail = "found none; the task external needs one, so accepted is minimize or maximize"
        wrong.append({"pointer": "/metric/goal", "detail": detail})
    if spec.horizon is None:
        detail = 'found none; the task external needs optimizer steps, such as {"steps": 2000}'
        wrong.append({"pointer": "/horizon", "detail": detail})
    wrong += _left_to_the_loop(spec, EXTERNAL, "in your own loop")
    if spec.warm_start is True:
        detail = "found true, but jobs of the task external may train anything; accepted are the ids of jobs like this"
        wrong.append({"pointer": "/warm_start", "detail": detail})
    if wrong:
        raise invalid(wrong)
    return _admitted(spec, metric=dict(spec.metric or {}), **_clip_if_asked(spec))


def _clip_if_asked(spec: JobSpec) -> dict[str, Any]:
    """A loop that is not ours does not clip, unless the job says that it does."""
    return {"clip_norm": spec.clip_norm if "clip_norm" in spec.model_fields_set else None}


def _left_to_the_loop(spec: JobSpec, task: str, where: str) -> list[Rejection]:
    """What a job cannot say that is trained outside our trainer: epochs, and how to train."""
    wrong: list[Rejection] = []
    if spec.horizon is not None and spec.horizon.steps is None:
        detail = f'found epochs; the task {task} needs optimizer steps, such as {{"steps": 2000}}'
        wrong.append({"pointer": "/horizon", "detail": detail})
    if spec.training != Training():
        detail = f"found settings of the workers' trainer; the task {task} trains {where}, which decides this"
        wrong.append({"pointer": "/training", "detail": detail})
    return wrong


def _no_shorter(spec: JobSpec, steps: int) -> list[Rejection]:
    """What is wrong with the shorter horizons of a job that takes the task's own of so many steps."""
    return [
        {
            "pointer": f"/horizons/{place}",
            "detail": f"found {one}; accepted are fewer steps than the task's own {steps}",
        }
        for place, one in enumerate(spec.horizons)
        if one >= max(steps, 1)
    ]


def _no_command(spec: JobSpec) -> list[Rejection]:
    detail = f"found true, but {shown(spec.task.name)} is no command; leave it out"
    return [{"pointer": "/task/command", "detail": detail}] if spec.task.command else []


def _params(spec: JobSpec, info: TaskInfo | TaskSummary) -> tuple[dict[str, Any], list[Rejection]]:
    """The task's parameters with their defaults, or what is wrong with them."""
    given = spec.task.params
    if isinstance(info, TaskSummary):
        params, found = parameters.checked(given, info.params)
        return params, _of_params(found)
    try:
        return info.params.model_validate(given).model_dump(mode="json"), []
    except ValidationError as error:
        below = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        found = pointers.rejections(below, given, info.params.model_json_schema())
    return dict(given), _of_params(found)


def _table(tx: Session, params: dict[str, Any], data_dir: Path, wrong: list[Rejection]) -> dict[str, Any]:
    """The parameters with the kind of their target, where it can be seen; what is wrong with the table is added."""
    found, kind = table_checks.checked(tx, TabularParams.model_validate(params), data_dir)
    wrong += _of_params(found)
    return params if found or kind is None else params | {"kind": kind}


def _text(info: TaskInfo | TaskSummary, params: Mapping[str, Any], data_dir: Path) -> list[Rejection]:
    if info is BUILT_IN["text"]:
        return _of_params(text_checks.wrong(TextParams.model_validate(params), data_dir))
    if info is BUILT_IN["huggingface"]:
        return _of_params(text_checks.too_little(HuggingfaceParams.model_validate(params), data_dir))
    return []


def _of_params(found: Sequence[Rejection]) -> list[Rejection]:
    return [{"pointer": f"/task/params{one['pointer']}", "detail": one["detail"]} for one in found]


def _named(spec: JobSpec) -> list[object]:
    """What may be names of data files: those of the built-in tasks' parameters."""
    params, split = spec.task.params, spec.task.params.get("validation")
    return [params.get("dataset"), params.get("model"), split.get("dataset") if isinstance(split, dict) else None]


def _missing_files(
    tx: Session, info: TaskInfo, params: Mapping[str, Any], data_dir: Path, only: str | None
) -> list[Rejection]:
    """Which data files are missing, where their folder can be seen from here; the workers' may be elsewhere."""
    name, split = params.get("dataset"), params.get("validation")
    missing = partial(_missing_file, tx, data_dir=data_dir, only=only)
    on_hub = info.name == "huggingface" and not str(name).lower().endswith(tuple(SUFFIXES))  # a worker may have it
    found = [] if name is None or on_hub else missing(name, "/task/params/dataset")
    for field in {"huggingface": ("model", "dataset")}.get(info.name, ()):
        if os.path.lexists(data_dir / str(params[field])):  # of the data folder, whose links must not lead out of it
            found = found or missing(params[field], f"/task/params/{field}")
    if isinstance(split, dict) and "dataset" in split:
        found += missing(split["dataset"], "/task/params/validation/dataset")
    return found


def unseen(spec: AdmittedJob, data_dir: Path) -> list[str]:
    """What a plan says of a data file that the workers alone could see."""
    name = spec.task.params.get("dataset")
    if name is None or data_dir.is_dir() or spec.task.name not in BUILT_IN or spec.task.name == "huggingface":
        return []
    return [f"this server has no data folder: whether the workers have {shown(name)} shows as the first trial begins"]


def _missing_file(tx: Session, name: str, pointer: str, *, data_dir: Path, only: str | None) -> list[Rejection]:
    if not data_dir.is_dir():
        return []
    try:
        if below(data_dir, name).exists():
            return []
    except UnusableFile as error:
        return [{"pointer": pointer, "detail": f"found {error}"}]
    uploads = mirror.few(*datasets.names(tx, limit=mirror.SHOWN, only=only))
    there_are = f"there are {mirror.listed(data_dir)}, and {f'uploaded are {uploads}' if uploads else 'no uploads'}"
    return [{"pointer": pointer, "detail": f"found no {shown(name)} in the data folder; {there_are}"}]


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
    known_range = info.ranges.get(metric.name)
    if metric.range is not None and known_range not in (None, metric.range):
        found, accepted = (json.dumps(ends) for ends in (metric.range, known_range))
        detail = f"found {found}; {metric.name} of the task {info.name} has the range {accepted}, or leave it out"
        return [{"pointer": "/metric/range", "detail": detail}]
    return []
