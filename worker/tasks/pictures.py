"""Reading images: an npz file, or a folder or a zip archive with one folder of pictures a class.

What belongs to what, and what is refused, is decided in `lrtune/uploads/`, where the server looks through uploads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lrtune.uploads import archives, arrays, pictures
from lrtune.uploads.folders import Place, debris
from lrtune.uploads.layouts import channels_first
from lrtune.uploads.names import Pair
from lrtune.uploads.parts import Part
from lrtune.uploads.pixels import Opener, Picture
from lrtune.wire.tasks import Layout
from worker.tasks.files import locate, reading

MOST_UNPACKED = 1 << 40  # what is uploaded was measured against the server's own limit


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs [n, channels, ...] of any kind of number, and one label each."""

    x: NDArray[Any]
    y: NDArray[Any]


Split = tuple[Examples, Examples | None]  # to train on, and to measure on where the data says which


def read_npz(path: Path, name: str, *, layout: Layout | None) -> Split:
    """The arrays of an npz file. Pickled objects are refused."""
    with reading(name, "npz"):
        found = arrays.examined(path, largest=MOST_UNPACKED)
        with archives.opened(path) as archive:

            def examples(pair: Pair) -> Examples:
                x = channels_first(arrays.read(archive, pair.x), pair.x, layout)
                return Examples(x, found.labels[pair.y])

            return examples(found.train), examples(found.held) if found.held else None


def read_folder(folder: Path, name: str, *, size: int, data_dir: Path) -> Split:
    """Pictures of every class, in colour and `size` x `size`; links that lead out of the data directory are refused."""
    files = [one.relative_to(folder) for one in folder.rglob("*") if one.suffix.lower() in pictures.SUFFIXES]
    names = [one.as_posix() for one in files if len(one.parts) > 1 and not debris(one.as_posix())]

    @contextmanager
    def opened(file: str) -> Iterator[IO[bytes]]:
        inside = locate(data_dir, str((folder / file).relative_to(data_dir.resolve())))
        with inside.open("rb") as content:
            yield content

    with reading(name, "a folder of pictures"):
        return _read(names, opened, size)


def read_zip(path: Path, name: str, *, size: int) -> Split:
    """The same from an archive. Nothing is unpacked to disk."""
    with reading(name, "a zip of pictures"), archives.opened(path) as archive:
        names, _ = pictures.inside(archive, largest=MOST_UNPACKED)
        return _read(names, archive.open, size)


@dataclass
class Taken:
    """The pixels of one part: bytes [size, size, 3], or floats [size, size] with the value that stands for white."""

    pixels: list[NDArray[Any]] = field(default_factory=list)
    whites: list[float | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def examples(self, white: float) -> Examples:
        """All pictures together: as bytes, or as floats up to 1 where any has more than 8 bits."""
        every = self.pixels
        if set(self.whites) != {255.0}:
            every = [self._unit(*one, white) for one in zip(self.pixels, self.whites, strict=True)]
        return Examples(np.moveaxis(np.stack(every), 3, 1), np.array(self.labels))

    @staticmethod
    def _unit(pixels: NDArray[Any], own: float | None, white: float) -> NDArray[np.float32]:
        scaled = (pixels / (white if own is None else own)).astype(np.float32)
        return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _read(names: Sequence[str], opener: Opener, size: int) -> Split:
    parts: dict[bool, Taken] = {}

    def take(place: Place, picture: Picture) -> None:
        part = parts.setdefault(place.part in (None, Part.TRAIN), Taken())
        part.pixels.append(np.asarray(picture.image.resize((size, size))))
        part.whites.append(picture.white)
        part.labels.append(place.label)

    seen = pictures.read(names, opener, take)
    seen.said()
    return parts[True].examples(seen.white), parts[False].examples(seen.white) if False in parts else None
