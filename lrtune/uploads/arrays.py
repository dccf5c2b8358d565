"""An npz file: examples with their labels, and those that are measured on where it has them. Pickles are refused.

`examined` is the one way into such a file: the server describes with it, and the worker reads the arrays that it names.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.uploads import archives, labels, layouts
from lrtune.uploads.names import Pair, paired
from lrtune.uploads.reading import reading
from lrtune.wire.datasets import Column, Description

LARGEST_LABELS = 128 * 1024 * 1024  # bytes: they are held as a whole, as a number or a word for each example
MOST_LABELS = 4_000_000
WIDEST = 1 << 24  # values of one example: a picture of 4,096 pixels square
BLOCK = 1 << 20  # values read together
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What an array says of itself. One in Fortran's order has its first axis run fastest."""

    shape: Shape
    kind: np.dtype[Any]
    fortran: bool


@dataclass(frozen=True, slots=True)
class Examined:
    """An npz file that was looked through: what is trained and measured on, its labels, and what is to be said."""

    headers: dict[str, Header]
    train: Pair
    held: Pair | None
    labels: dict[str, NDArray[Any]]
    notes: list[str]

    @property
    def shape(self) -> Shape:
        """The shape of the examples to train on."""
        return self.headers[self.train.x].shape


def of_npz(path: Path, *, largest: int) -> Description:
    """The arrays with their shapes, the classes, and what was decided of both. Raises UnusableFile."""
    found = examined(path, largest=largest)
    columns = [Column(name=name, type=f"{one.kind} {list(one.shape)}") for name, one in found.headers.items()]
    layout, said = layouts.found(found.shape, found.train.x)
    asks = {} if layout else {"layout": said}
    classes = Counter[str]()
    for one in found.labels.values():
        for label, many in zip(*np.unique(one, return_counts=True), strict=True):
            classes[str(label)[:80]] += int(many)
    return Description(
        rows=sum(map(len, found.labels.values())),
        columns=columns,
        classes=dict(sorted(classes.items())),
        notes=[said, *found.notes],
        asks=asks,
    )


def examined(path: Path, *, largest: int) -> Examined:
    """Every array read through once, a part at a time. Raises UnusableFile."""
    with archives.opened(path) as archive:
        files = {_array(info): info for info in archives.entries(archive, largest=largest)}
        train, held, notes = paired(list(files))
        pairs = [one for one in (train, held) if one]
        inputs = {one.x for one in pairs}
        headers = {name: _looked_through(archive, info, name, used=name in inputs) for name, info in files.items()}
        targets = labels.alike({one.y: _labels(archive, files[one.y], one.y) for one in pairs})
    for pair in pairs:
        _agree(headers[pair.x].shape, pair, len(targets[pair.y]))
    if held and headers[train.x].shape[1:] != headers[held.x].shape[1:]:
        shapes = f"{train.x} is of shape {headers[train.x].shape} and {held.x} of {headers[held.x].shape}"
        raise UnusableFile(f"{shapes}; all but the first agree")
    return Examined(headers, train, held, targets, notes + labels.compared(targets, train.y, held.y if held else None))


def read(archive: ZipFile, name: str) -> NDArray[Any]:
    """A whole array of a file that was examined."""
    with archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _array(info: ZipInfo) -> str:
    name, dot, suffix = info.filename.partition(".")
    if dot + suffix != ".npy" or not name.isidentifier():
        raise UnusableFile(
            f"the file has {info.filename[:60]!r}; accepted are arrays alone, as numpy.savez writes them"
        )
    return name


def _header(file: IO[bytes], name: str) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if kind.hasobject:
        raise UnusableFile(
            f"the array {name} holds Python objects, which could run code; "
            "accepted are plain arrays, as .astype(str) makes of words"
        )
    return Header(shape, kind, fortran)


def _looked_through(archive: ZipFile, info: ZipInfo, name: str, *, used: bool) -> Header:
    """What an array is. Raises UnusableFile for inputs that are no numbers, not finite, or all the same."""
    with reading(f"the array {name} cannot be read"), archive.open(info) as file:
        header = _header(file, name)
        if used and header.kind.kind not in "uifb":
            raise UnusableFile(f"the array {name} holds {str(header.kind)[:60]}; accepted are numbers")
        count = int(np.prod(header.shape, dtype=object))
        if count * header.kind.itemsize > info.file_size:
            raise UnusableFile(
                f"the array {name} is said to be {list(header.shape)} of {header.kind}, but the file is shorter"
            )
        if used and count and header.shape:
            _numbers(file, name, header, count)
        while file.read(BLOCK):
            pass  # to its end, where its checksum is compared
    return header


def _numbers(file: IO[bytes], name: str, header: Header, count: int) -> None:
    """Look at every number of the inputs, a block of whole examples (or of Fortran's whole columns) at a time."""
    examples = header.shape[0]
    if count // examples > WIDEST:
        raise UnusableFile(f"an example of {name} has {count // examples} values; at most {WIDEST} are accepted")
    width = examples if header.fortran else count // examples
    first: NDArray[Any] | None = None
    differ, at = False, 0
    for block in _blocks(file, header.kind, width, count // width):
        with np.errstate(over="ignore"):
            bad = np.argwhere(~np.isfinite(block.astype(np.float32)))
        if len(bad):
            row, place = map(int, bad[0])
            example, value = (place if header.fortran else at + row), block[row, place]
            raise UnusableFile(
                f"the array {name} has {value} in example {example} (counted from 0), which is not finite in 32 bits; "
                "accepted are finite numbers up to 3e38"
            )
        first = block[0].copy() if first is None else first
        differ = differ or bool((block != (block[:, :1] if header.fortran else first)).any())
        at += len(block)
    if not differ and examples > 1:
        raise UnusableFile(f"all {examples} examples of {name} are the same; nothing can be learned from them")


def _blocks(file: IO[bytes], kind: np.dtype[Any], width: int, rows: int) -> Iterator[NDArray[Any]]:
    """Arrays [rows, width], in the order of the file."""
    together = max(1, BLOCK // width)
    for start in range(0, rows, together):
        many = min(together, rows - start)
        yield np.frombuffer(file.read(many * width * kind.itemsize), kind).reshape(many, width)


def _labels(archive: ZipFile, info: ZipInfo, name: str) -> NDArray[Any]:
    if info.file_size > LARGEST_LABELS:
        raise UnusableFile(f"{name} takes {info.file_size} bytes; labels of at most {LARGEST_LABELS} are accepted")
    with reading(f"the array {name} cannot be read"):
        with archive.open(info) as file:
            shape = _header(file, name).shape
        if shape and shape[0] > MOST_LABELS:
            raise UnusableFile(f"{name} has {shape[0]} labels; at most {MOST_LABELS} are accepted")
        return labels.classes(read(archive, name), name)


def _agree(examples: Shape, pair: Pair, many: int) -> None:
    if len(examples) not in (2, 3, 4):
        raise UnusableFile(
            f"{pair.x} has {len(examples)} axes; accepted are signals [n, length], [n, h, w] or [n, h, w, c]"
        )
    if 0 in examples:
        raise UnusableFile(f"{pair.x} is empty: its shape is {list(examples)}")
    if examples[0] != many:
        raise UnusableFile(f"{pair.x} has {examples[0]} examples and {pair.y} has {many} labels")
