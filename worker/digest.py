"""What a task is made of, as one hash: its parameters, its data and its code. Equal digests train the same network.

Whatever stands in the task's attributes is read, and the examples it trains and measures on: tensors and arrays by
their bytes, files by their contents, directories by the names, sizes and times of what is below them, functions and
objects by the source of the package they come from. What cannot be read makes the digest one of a kind, and then
nothing is shared.
"""

import hashlib
import importlib
import importlib.metadata
import inspect
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.task import Task

MOST_FILES = 20_000  # below a directory
DISTRIBUTIONS = ("torch", "numpy", "scipy", "sklearn", "pandas")  # known by their versions, not by their sources
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.device, torch.dtype, range, Enum)


class Unreadable(Exception):
    """A part of a task that cannot be distinguished from another."""


def task_digest(task: Task) -> str:
    """The digest of a task: what it says itself, or what its attributes and its code come to."""
    given, hashed = task.digest(), hashlib.sha256()
    try:
        _feed(hashed.update, [type(task), _attributes(task)] if given is None else given, [])
    except Unreadable:
        return f"unreadable-{uuid.uuid4().hex}"
    return hashed.hexdigest()


def _attributes(task: Task) -> dict[str, Any]:
    """What a task has, whether or not it was asked for yet."""
    kind = type(task)
    own = {name: v for name, v in vars(task).items() if not isinstance(getattr(kind, name, None), cached_property)}
    if kind.train_set is not Task.train_set:
        own["train_set()"] = task._train
    if kind.validation_set is not Task.validation_set:
        own["validation_set()"] = task._validation
    return own


def _feed(update: Callable[[bytes], None], value: Any, above: list[int]) -> None:
    """Put a value into a hash, everything below it included."""
    update(f"({type(value).__module__}.{type(value).__qualname__} ".encode())
    if id(value) in above:
        update(f"^{len(above) - above.index(id(value))}".encode())
    elif isinstance(value, PLAIN):
        update(repr(value).encode())
    elif isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise Unreadable
        plain = value.detach().cpu().contiguous()
        update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        update(plain.flatten().view(torch.uint8).numpy().tobytes())
    else:
        for part in _parts(value):
            _feed(update, part, [*above, id(value)])
    update(b")")


def _parts(value: Any) -> list[Any]:
    """What a value is made of."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise Unreadable
        return [value.dtype.str, value.shape, value.tobytes()]
    if isinstance(value, np.generic):
        return [value.dtype.str, value.tobytes()]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Path):
        return _files(value)
    if isinstance(value, type):
        return [value.__qualname__, *(source(base.__module__) for base in value.__mro__)]
    return _callable(value) or _object(value)


def _files(path: Path) -> list[Any]:
    """A file by its contents; of a directory what there is, because nobody knows what of it is read."""
    if path.is_file():
        with path.open("rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
    below = list(islice((one for one in path.rglob("*") if one.is_file()), MOST_FILES + 1))
    if len(below) > MOST_FILES:
        raise Unreadable
    return sorted((str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns) for one in below)


def _callable(value: Any) -> list[Any]:
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, BuiltinFunctionType):
        return [str(value.__module__), value.__qualname__]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        code: CodeType = value.__code__
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__qualname__, code.co_firstlineno, source(value.__module__), value.__defaults__, *cells]
    return []


def _object(value: Any) -> list[Any]:
    if hasattr(value, "__dict__"):
        return [type(value), dict(vars(value))]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value), {field.name: getattr(value, field.name) for field in fields(value)}]
    raise Unreadable


@lru_cache(maxsize=1024)
def source(module: str) -> str:
    """The hash of the code a module belongs to: its package's files, or its own; its version for a known library."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and module != "__main__":
        return top
    if top in DISTRIBUTIONS:
        return f"{top} {sys.modules[top].__version__}"
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None)
    if found is None or file is None:
        raise Unreadable
    try:
        version = importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    alone = not getattr(found, "__package__", "") or module == "__main__"
    hashed = hashlib.sha256(version.encode())
    for path in [Path(file)] if alone else sorted(Path(file).parent.glob("*.py")):
        hashed.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return hashed.hexdigest()


@lru_cache(maxsize=8)
def code(modules: tuple[str, ...]) -> str:
    """The hash of the sources of some modules of ours."""
    hashed = hashlib.sha256()
    for module in modules:
        hashed.update(inspect.getsource(importlib.import_module(module)).encode())
    return hashed.hexdigest()
