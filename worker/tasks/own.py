"""Tasks of one's own: classes that an operator names in `LRTUNE_TASKS`, or that installed packages offer.

A class is looked at before a worker announces it, so that what is wrong with it is said at the start, not in a trial.
"""

import importlib
import inspect
import json
import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.uploads import mirror
from lrtune.wire.job import EXTERNAL, MetricRange
from lrtune.wire.results import TaskSummary
from lrtune.wire.tasks import BUILT_IN
from worker.traces import theirs, words

GROUP = "lrtune.tasks"  # of entry points
GOALS = ("minimize", "maximize")
log = logging.getLogger("lrtune.worker")


def find(paths: str | None) -> dict[str, type[Task]]:
    """Every task of `LRTUNE_TASKS` by its import path, and of the entry points by their names. Raises TaskError.

    An entry point that does not work is logged and left out: it came with a package, and nobody here asked for it.
    """
    found: dict[str, type[Task]] = {}
    for point in entry_points(group=GROUP):
        try:
            if point.name in (*BUILT_IN, EXTERNAL):
                raise TaskError(f"{point.name} is the name of a built-in task")
            found[point.name] = load(point.value)
            summary(point.name, found[point.name])
        except TaskError as error:
            found.pop(point.name, None)
            log.warning("the task %s of the entry points is left out: %s", point.name, error)
    for path in filter(None, (part.strip() for part in (paths or "").split(","))):
        found[path] = load(path)
        summary(path, found[path])
    return found


def load(path: str) -> type[Task]:
    """The class of an import path such as `my_tasks:Vision`. Raises TaskError, with their traceback."""
    module, colon, name = path.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise TaskError(f"found {path!r}; accepted is module:Class, such as my_tasks:Vision")
    try:
        imported = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            where = ", ".join(dict.fromkeys(entry or str(Path.cwd()) for entry in sys.path[:3]))
            raise TaskError(
                f"{path}: there is no module {error.name!r} on Python's path ({where}, ...); start where it lies, "
                "or name its folder in PYTHONPATH"
            ) from None
        raise TaskError(f"{path}: importing {module} failed: {words(error)}\n{theirs(error)}") from error
    found = getattr(imported, name, None)
    if found is None:
        there = [each for each, value in vars(imported).items() if _is_task(value)]
        raise TaskError(f"{path}: {module} has no {name}; its tasks are {', '.join(there) or 'none'}")
    if not _is_task(found):
        raise TaskError(f"{path}: {name} is no task; accepted is a class that inherits from lrtune.task.Task")
    return found  # type: ignore[no-any-return]


def _is_task(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value is not Task


def summary(name: str, cls: type[Task]) -> TaskSummary:
    """What a worker announces of a task. Raises TaskError for a class that cannot be one."""
    if missing := sorted(cls.__abstractmethods__):
        raise TaskError(f"{name}: {cls.__name__} does not say its {' and its '.join(missing)}")
    try:
        inspect.signature(cls).bind(object(), Path())
    except TypeError as error:
        raise TaskError(
            f"{name}: {cls.__name__}.__init__ takes other arguments; accepted is (params, data_dir): {error}"
        ) from None
    steps = cls.steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise TaskError(f"{name}: steps: found {steps!r}; accepted is a whole number of at least 2")
    about = (inspect.getdoc(cls) or "") if "__doc__" in vars(cls) and cls.__doc__ else ""
    return TaskSummary(
        name=name,
        summary=about.partition("\n\n")[0].replace("\n", " ") or cls.__name__,
        params=schema(name, cls),
        metrics=_metrics(name, cls),
        ranges=_ranges(name, cls),
        steps=steps,
    )


def _metrics(name: str, cls: type[Task]) -> Mapping[str, Any]:
    found: Any = cls.metrics
    good = isinstance(found, Mapping) and found and all(isinstance(k, str) and v in GOALS for k, v in found.items())
    if not good:
        raise TaskError(
            f"{name}: metrics: found {found!r:.100}; accepted are names with goals on the class, such as "
            '{"val_loss": "minimize", "val_accuracy": "maximize"}'
        )
    return found  # type: ignore[no-any-return]


def _ranges(name: str, cls: type[Task]) -> Mapping[str, Any]:
    found: Any = cls.ranges
    try:
        ranges = TypeAdapter(dict[str, MetricRange]).validate_python(found)
    except ValidationError:
        ranges = None
    if ranges is None or not set(ranges) <= set(cls.metrics):
        raise TaskError(
            f"{name}: ranges: found {found!r:.100}; accepted are the lowest and the highest value of some of its "
            'metrics on the class, None where there is none, such as {"val_loss": (0, None), "val_accuracy": (0, 1)}'
        )
    return ranges


def schema(name: str, cls: type[Task]) -> dict[str, Any]:
    """The JSON Schema of a task's parameters. Unknown ones are refused, unless the model says that it allows them."""
    model: Any = cls.Params
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TaskError(
            f"{name}: Params: found {model!r:.80}; accepted is a class that inherits from pydantic.BaseModel"
        )
    try:
        found = model.model_json_schema()
        json.dumps(found, allow_nan=False)
    except Exception as error:
        raise TaskError(f"{name}: Params cannot be described as JSON Schema: {words(error)}") from error
    return found if model.model_config.get("extra") == "allow" else {**found, "additionalProperties": False}


def make(name: str, cls: type[Task], params: Mapping[str, Any], data_dir: Path) -> Task:
    """The task with these parameters, made once for many trials. Raises TaskError for wrong ones."""
    mirror.fetch_all(data_dir, params)
    return _made(name, cls, json.dumps(params, sort_keys=True), data_dir)


@lru_cache(maxsize=4)
def _made(name: str, cls: type[Task], params: str, data_dir: Path) -> Task:
    given = json.loads(params)
    fields = cls.Params.model_fields
    names = {field.alias or key for key, field in fields.items()} | set(fields)
    unknown = [] if cls.Params.model_config.get("extra") == "allow" else sorted(set(given) - names)
    if unknown:
        raise TaskError(
            f"task {name}: unknown parameters {', '.join(unknown)}; there are {', '.join(fields) or 'none'}"
        )
    try:
        checked = cls.Params.model_validate(given)
    except ValidationError as error:
        found = (f"{'.'.join(map(str, one['loc'])) or 'params'}: {one['msg']}" for one in error.errors())
        raise TaskError(f"task {name}: {'; '.join(found)}") from None
    return cls(checked, data_dir)


forget = _made.cache_clear  # after a failure: the task may have been left half done
