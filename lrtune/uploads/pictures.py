"""A zip of pictures, one folder a class; the worker reads it through the same checks."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from zipfile import ZipFile, ZipInfo

from lrtune.errors import UnusableFile
from lrtune.uploads import archives
from lrtune.uploads.reading import reading
from lrtune.uploads.texts import SHOWN
from lrtune.wire.datasets import Description

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_PIXELS = 25_000_000
LARGEST = 64 * 1024 * 1024  # bytes of a picture, before it is decoded
MOST_PACKED = 200  # times smaller than unpacked: pictures are packed already
FREE = 1024 * 1024  # bytes from which that matters
DEBRIS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


def of_zip(path: Path, *, largest: int) -> Description:
    """The classes and sizes of the pictures; each is decoded once. Raises UnusableFile."""
    counts: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    first: list[list[str | None]] = []
    with archives.opened(path) as archive:
        for label, info in listed(archive, largest=largest):
            with picture(archive, info) as image:
                sizes[image.size] += 1
                counts[label] += 1
                if len(first) < SHOWN:
                    first.append([label, info.filename, f"{image.width}x{image.height}"])
    if len(counts) < 2:
        raise UnusableFile(f"all pictures are of one class, {next(iter(counts))!r}; needed is a folder for each of two")
    notes = [f"{len(sizes)} different sizes; the task `images` scales all to `size`"] if len(sizes) > 1 else []
    return Description(rows=counts.total(), classes=dict(sorted(counts.items())), first=first, notes=notes)


def listed(archive: ZipFile, *, largest: int) -> Iterator[tuple[str, ZipInfo]]:
    """(class, file) of every picture, in order of their names. Raises UnusableFile before the first is read."""
    found = [info for info in archives.entries(archive, largest=largest) if not _debris(info)]
    for info in found:
        _like_a_picture(info)
    if not found:
        raise UnusableFile("the archive has no pictures; accepted is one folder of pictures a class")
    yield from ((PurePosixPath(info.filename).parts[-2], info) for info in sorted(found, key=lambda one: one.filename))


def _debris(info: ZipInfo) -> bool:
    """What desktops leave in archives."""
    parts = PurePosixPath(info.filename).parts
    return parts[0] in DEBRIS or parts[-1] in DEBRIS


def _like_a_picture(info: ZipInfo) -> None:
    path = PurePosixPath(info.filename)
    if path.suffix.lower() not in SUFFIXES:
        raise UnusableFile(f"the archive has {info.filename[:60]!r}; accepted are pictures: {', '.join(SUFFIXES)}")
    if len(path.parts) not in (2, 3):
        raise UnusableFile(f"the archive has {info.filename[:60]!r}; accepted is CLASS/PICTURE, one folder a class")
    packed = info.file_size > FREE and info.file_size > MOST_PACKED * max(1, info.compress_size)
    if packed or info.file_size > LARGEST:
        raise UnusableFile(
            f"the archive has {info.filename[:60]!r}, {info.compress_size} bytes that unpack to {info.file_size}; "
            f"accepted are pictures of {LARGEST} bytes, packed at most {MOST_PACKED} times"
        )


@contextmanager
def picture(archive: ZipFile, info: ZipInfo) -> "Iterator[Image]":
    """One picture, decoded. Raises UnusableFile for what is none, or too large, or moves."""
    from PIL import Image  # a heavy import, for uploads only

    name = info.filename[:60]
    with reading(f"{name!r} is no picture"), archive.open(info) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnusableFile(f"{name!r} has {image.width}x{image.height} pixels; at most {MOST_PIXELS} are accepted")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise UnusableFile(f"{name!r} has several frames; accepted are pictures that stand still")
        image.load()
        yield image
