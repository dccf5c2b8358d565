"""An npz file: numbers x and labels y, and x_test and y_test where both are there. Pickled objects are refused."""

from collections import Counter
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from lrtune.errors import UnusableFile
from lrtune.uploads import archives
from lrtune.uploads.reading import reading
from lrtune.wire.datasets import Column, Description

LABELS = ("y", "y_test")
WANTED = ("x", "y", "x_test", "y_test")
LARGEST_LABELS = 256 * 1024 * 1024
BLOCK = 1 << 20  # values read together
MOST_CLASSES = 1000
Shape = tuple[tuple[int, ...], np.dtype[Any]]


def of_npz(path: Path, *, largest: int) -> Description:
    """The arrays with their shapes, and the classes of y. Raises UnusableFile."""
    with archives.opened(path) as archive:
        found = {_array(info): info for info in archives.entries(archive, largest=largest)}
        _named(list(found))
        shapes = {name: _read_through(archive, info, name) for name, info in found.items()}
        for x, y in (("x", "y"), ("x_test", "y_test")):
            if x in shapes:
                _pair(shapes, x, y)
        classes = _classes(archive, {name: found[name] for name in LABELS if name in found})
    if "x_test" in shapes and shapes["x"][0][1:] != shapes["x_test"][0][1:]:
        raise UnusableFile(
            f"x is of shape {shapes['x'][0]} and x_test of {shapes['x_test'][0]}; all but the first agree"
        )
    columns = [Column(name=name, type=f"{kind} {list(shape)}") for name, (shape, kind) in shapes.items()]
    unused = [name for name in shapes if name not in WANTED]
    notes = [f"not used: {', '.join(unused)[:200]}; the task `images` reads {', '.join(WANTED)}"] if unused else []
    return Description(rows=shapes["x"][0][0], columns=columns, classes=classes, notes=notes)


def _array(info: ZipInfo) -> str:
    name, dot, suffix = info.filename.partition(".")
    if dot + suffix != ".npy" or not name.isidentifier():
        raise UnusableFile(
            f"the file has {info.filename[:60]!r}; accepted are arrays alone, as numpy.savez writes them"
        )
    if name in LABELS and info.file_size > LARGEST_LABELS:
        raise UnusableFile(f"{name} takes {info.file_size} bytes; labels of at most {LARGEST_LABELS} are accepted")
    return name


def _named(names: list[str]) -> None:
    if not {"x", "y"} <= set(names) or ("x_test" in names) != ("y_test" in names):
        raise UnusableFile(f"the file has the arrays {', '.join(names) or 'none'}; needed are x and y")


def _read_through(archive: ZipFile, info: ZipInfo, name: str) -> Shape:
    """The shape and type of an array. Raises UnusableFile unless every value is finite."""
    with reading(f"the array {name} cannot be read"), archive.open(info) as file:
        shape, kind = _header(file, name)
        count = int(np.prod(shape, dtype=object))
        if count * kind.itemsize > info.file_size:
            raise UnusableFile(f"the array {name} is said to be {list(shape)} of {kind}, but the file is shorter")
        while block := file.read(BLOCK * max(1, kind.itemsize)):
            values = np.frombuffer(block[: len(block) - len(block) % max(1, kind.itemsize)], kind)
            if kind.kind == "f" and name in WANTED and not np.isfinite(values).all():
                raise UnusableFile(f"the array {name} has values that are not finite numbers")
    return shape, kind


def _header(file: IO[bytes], name: str) -> Shape:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    accepted = "uibUS" if name in LABELS else "uifb" if name in WANTED else kind.kind
    if kind.hasobject:
        raise UnusableFile(f"the array {name} holds Python objects, which could run code; accepted are plain arrays")
    if kind.kind not in accepted:
        what = "one whole number or name each" if name in LABELS else "numbers"
        raise UnusableFile(f"the array {name} holds {str(kind)[:60]}; accepted are {what}")
    return shape, kind


def _pair(shapes: dict[str, Shape], x: str, y: str) -> None:
    examples, labels = shapes[x][0], shapes[y][0]
    if len(examples) not in (2, 3, 4):
        raise UnusableFile(f"{x} has {len(examples)} axes; accepted are signals [n, length], [n, h, w] or [n, h, w, c]")
    if 0 in examples:
        raise UnusableFile(f"{x} is empty: its shape is {list(examples)}")
    if not labels or int(np.prod(labels, dtype=object)) != labels[0]:
        raise UnusableFile(f"{y} is of shape {list(labels)}; accepted is one label each")
    if examples[0] != labels[0]:
        raise UnusableFile(f"{x} has {examples[0]} examples and {y} has {labels[0]} labels")


def _classes(archive: ZipFile, labels: dict[str, ZipInfo]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, info in labels.items():
        with reading(f"the array {name} cannot be read"), archive.open(info) as file:
            values, times = np.unique(np.lib.format.read_array(file, allow_pickle=False), return_counts=True)
        if len(values) > MOST_CLASSES:
            raise UnusableFile(f"{name} has {len(values)} classes; at most {MOST_CLASSES} can be learned")
        counts.update({str(value)[:80]: int(many) for value, many in zip(values, times, strict=True)})
    if len(counts) < 2:
        raise UnusableFile(f"all labels are of one class, {next(iter(counts))!r}; two are needed")
    return dict(counts)
