"""The built-in training problems. Each module has one `prepare(params, data_dir)`; to add one, write a module, list it
here and give its parameters and metrics a row in `lrtune/wire/tasks.py`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.uploads import mirror
from lrtune.wire.job import TaskSpec
from lrtune.wire.tasks import BUILT_IN, HuggingfaceParams
from worker.tasks import digits, images, tabular, text
from worker.tasks.own import make


def _huggingface(params: HuggingfaceParams, data_dir: Path) -> Task:
    """Imported when it is wanted: its libraries are optional, and take seconds."""
    from worker.tasks import huggingface

    return huggingface.prepare(params, data_dir)


# `Any` because each takes its own class of parameters; BUILT_IN has the same key for the two.
_MODULES: dict[str, Callable[[Any, Path], Task]] = {
    "digits": digits.prepare,
    "tabular": tabular.prepare,
    "images": images.prepare,
    "text": text.prepare,
    "huggingface": _huggingface,
}


def offered() -> list[str]:
    """The built-in tasks whose packages are installed here."""
    return [name for name, task in BUILT_IN.items() if all(map(find_spec, task.needs))]


def prepare(spec: TaskSpec, data_dir: Path, own: Mapping[str, type[Task]] | None = None) -> Task:
    """The task a job names, its data read; `own` are the operator's. Raises TaskError, in words."""
    if own and spec.name in own:
        return make(spec.name, own[spec.name], spec.params, data_dir)
    if spec.name not in _MODULES:
        raise TaskError(f"task: found {spec.name!r}; accepted is one of {', '.join([*_MODULES, *(own or ())])}")
    try:
        params = BUILT_IN[spec.name].params.model_validate(spec.params)
    except ValidationError as error:
        found = (f"{'.'.join(map(str, one['loc'])) or 'params'}: {one['msg']}" for one in error.errors())
        raise TaskError(f"task {spec.name}: {'; '.join(found)}") from None
    named = [getattr(params, field, None) for field in ("dataset", "model")]
    named.append(getattr(getattr(params, "validation", None), "dataset", None))
    mirror.fetch(data_dir, named)
    changed = tuple(_changed_at(data_dir / name) for name in named if name)
    return _prepared(spec.name, params.model_dump_json(), data_dir, changed)


@lru_cache(maxsize=4)
def _prepared(name: str, params: str, data_dir: Path, changed: tuple[int, ...]) -> Task:  # noqa: ARG001
    """Read once for many trials, and again when a file has changed."""
    return _MODULES[name](BUILT_IN[name].params.model_validate_json(params), data_dir)


def _changed_at(path: Path) -> int:
    try:
        below = (path, *path.glob("*"), *path.glob("**/"))  # a folder's files may be written over, or change deep down
        return max(one.stat().st_mtime_ns for one in below)
    except OSError:
        return 0  # what is wrong with it is for the task to say
