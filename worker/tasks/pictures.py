"""Reading images: an npz file, or a folder or a zip archive with one folder of pictures a class."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrtune.errors import TaskError
from lrtune.uploads import archives
from lrtune.uploads.pictures import SUFFIXES, listed, picture
from worker.tasks.files import locate, reading

Arrays: TypeAlias = dict[str, NDArray[Any]]
MOST_UNPACKED = 1 << 40  # what is uploaded was measured against the server's own limit
CHANNELS = 4  # a last axis so short is the channels; a longer one means that they come first


def read_npz(path: Path, name: str) -> Arrays:
    """The arrays x and y, and x_test and y_test where both are there. Pickled objects are refused."""
    with reading(name, "npz"), np.load(path, allow_pickle=False) as file:
        found = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
    missing = {"x", "y"} - set(found)
    if missing or ("x_test" in found) != ("y_test" in found):
        raise TaskError(
            f"dataset: {name!r} has {', '.join(found) or 'none'} of x, y, x_test, y_test; needed are x and y"
        )
    for x, y in (("x", "y"), ("x_test", "y_test")):
        if x in found and (len(found[x]) != len(found[y]) or len(found[x]) == 0):
            raise TaskError(f"dataset: {name!r} has {len(found[x])} examples in {x} and {len(found[y])} labels in {y}")
    return found


def channels_first(x: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Signals as [n, 1, length], images as [n, channels, height, width], whatever the file has."""
    if x.dtype.kind not in "uifb":
        raise TaskError(f"dataset: x of {name!r} holds {x.dtype}; accepted are numbers")
    if x.ndim in (2, 3):
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] <= CHANNELS < x.shape[1]:
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim != 4:
        raise TaskError(
            f"dataset: x of {name!r} has {x.ndim} axes; accepted are signals [n, length], [n, h, w] or [n, h, w, c]"
        )
    numbers = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise TaskError(f"dataset: x of {name!r} has values that are not finite")
    return numbers


def read_folder(folder: Path, name: str, *, size: int, data_dir: Path) -> Arrays:
    """Pictures of every class, in colour and `size` × `size`; links that lead out of the data directory are refused."""
    pictures, labels = [], []
    for file in sorted(folder.glob("*/*")):
        if file.suffix.lower() in SUFFIXES:
            inside = locate(data_dir, str(file.relative_to(data_dir.resolve())))
            with reading(f"{name}/{file.parent.name}/{file.name}", "a picture"), Image.open(inside) as image:
                pictures.append(_scaled(image, size))
            labels.append(file.parent.name)
    if not pictures:
        raise TaskError(
            f"dataset: {name!r} has no pictures; accepted is one folder a class with {' '.join(sorted(SUFFIXES))}"
        )
    return {"x": np.stack(pictures), "y": np.array(labels)}


def read_zip(path: Path, name: str, *, size: int) -> Arrays:
    """The same from an archive, as the server looks through it when it is uploaded. Nothing is unpacked to disk."""
    pictures, labels = [], []
    with reading(name, "a zip of pictures"), archives.opened(path) as archive:
        for label, info in listed(archive, largest=MOST_UNPACKED):
            with picture(archive, info) as image:
                pictures.append(_scaled(image, size))
            labels.append(label)
    return {"x": np.stack(pictures), "y": np.array(labels)}


def _scaled(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((size, size)), dtype=np.uint8)
