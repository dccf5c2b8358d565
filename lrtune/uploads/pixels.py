"""One picture as it is meant: upright, its transparency on white, and all of its depth. Pillow is imported late."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from lrtune.errors import LrtuneError, UnusableFile

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MOST_PIXELS = 25_000_000
ORIENTATION = 0x0112  # a tag of EXIF
SAMPLES, UNSIGNED = 339, (1,)  # a tag of TIFF
UNKNOWN = ("LAB",)  # what Pillow cannot turn into RGB
STRIP = 128  # rows that are looked at together
Opener = Callable[[str], AbstractContextManager[IO[bytes]]]
ON_WHITE = "with transparency, put on white"
TURNED = "turned as the camera says (EXIF)"
SIXTEEN = "of 16 bits, read with all of them"
HALVED = "of 16 bits a colour, of which the upper 8 are read"
WHITES = (1.0, 255.0, 65_535.0, 2.0**32 - 1)


class Damaged(UnusableFile):
    """A picture that cannot be read. A few of them are left out of a set."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in RGB, or in F (one float a pixel) where it has more than 8 bits.

    `white` is the value that stands for white: 255, 65535, or None for 32 bits and floats, where only the set can tell.
    `remarks` say how it was read, where that is worth saying.
    """

    image: "Image"
    white: float | None
    remarks: frozenset[str]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value of one with floats."""
        low, high = self.image.getextrema()
        return float(low), float(high)  # type: ignore[arg-type]

    def fingerprint(self) -> bytes:
        """Equal for equal pictures, and for those of one colour all over, whatever their size."""
        extrema = np.atleast_2d(self.image.getextrema())
        if (extrema[:, 0] == extrema[:, 1]).all():
            return repr((self.white, extrema[:, 0].tolist())).encode()
        hashed = hashlib.sha256(repr((self.white, self.image.size)).encode())
        for strip in _strips(self.image):
            hashed.update(strip.tobytes())
        return hashed.digest()


def white_of(low: float, high: float) -> float:
    """What stands for white in pictures of 32 bits or floats from `low` to `high`: the least usual value above all."""
    top = max(abs(low), abs(high))
    return next((white for white in WHITES if top <= white), top)


def picture(opener: Opener, name: str) -> Picture:
    """One picture, decoded. Raises Damaged for what is none, UnusableFile for what is too large, moves, or has NaN."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # a heavy import, for pictures only

    path, name = name, name[:60]
    try:
        with opener(path) as file, Image.open(file, formats=FORMATS) as image:
            _bearable(image, name)
            remarks = _remarks(image)
            image.load()
            with suppress(Exception):  # over EXIF that cannot be written again; the picture is turned by then
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F" or image.mode.startswith("I"):
                return _deep(image, name, remarks)
            return _colours(image, name, remarks)
    except (LrtuneError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableFile(f"{name!r} has far more than the {MOST_PIXELS} pixels that are accepted") from None
    except UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise Damaged(
            f"{name!r} is no picture: it is none of {formats}, of a rare kind, or damaged; convert it to PNG or JPEG"
        ) from None
    except Exception as error:  # Pillow raises anything over a broken file, even SyntaxError and struct.error
        raise Damaged(f"{name!r} is no picture that can be read to its end: it is cut off or damaged") from error


def _bearable(image: "Image", name: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise UnusableFile(f"{name!r} has {image.width}x{image.height} pixels; at most {MOST_PIXELS} are accepted")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise UnusableFile(f"{name!r} has several frames; accepted are pictures that stand still")


def _remarks(image: "Image") -> set[str]:
    """What the headers tell, before the pixels are decoded; cameras and editors write much that cannot be read."""
    found = {HALVED} if any(";16" in str(tile) for tile in getattr(image, "tile", ())) else set()
    with suppress(Exception):
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            found.add(TURNED)
    return found


def _colours(image: "Image", name: str, remarks: set[str]) -> Picture:
    if image.mode in UNKNOWN:
        raise UnusableFile(f"{name!r} has colours of the kind {image.mode}; accepted are grey, RGB, CMYK and palettes")
    if not image.has_transparency_data:
        return Picture(image.convert("RGB"), 255.0, frozenset(remarks))
    from PIL.Image import new

    seen_through = image.convert("RGBA")
    alpha = seen_through.getchannel("A")
    shown = new("RGB", image.size, "white")
    shown.paste(seen_through, mask=alpha)
    opaque = alpha.getextrema() == (255, 255)
    return Picture(shown, 255.0, frozenset(remarks if opaque else remarks | {ON_WHITE}))


def _deep(image: "Image", name: str, remarks: set[str]) -> Picture:
    """A grey picture of 16 bits, 32 bits or floats."""
    from PIL.Image import fromarray

    remarks -= {HALVED}
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.array(image.convert("I"), np.float32)
        through = values == image.info.get("transparency", -1)  # the one value that is transparent
        values[through] = white = WHITES[2]
        remarks |= {SIXTEEN, ON_WHITE} if through.any() else {SIXTEEN}
        return Picture(fromarray(values), white, frozenset(remarks))
    if image.mode == "I" and image.format == "TIFF" and tuple(image.tag_v2.get(SAMPLES, UNSIGNED)) == UNSIGNED:  # type: ignore[attr-defined]
        return Picture(fromarray(np.asarray(image).view(np.uint32).astype(np.float32)), None, frozenset(remarks))
    shown = image.convert("F")
    if not all(np.isfinite(np.asarray(strip)).all() for strip in _strips(shown)):
        raise UnusableFile(f"{name!r} has pixels that are not finite numbers (NaN or infinite)")
    return Picture(shown, None, frozenset(remarks))


def _strips(image: "Image") -> "Iterator[Image]":
    for top in range(0, image.height, STRIP):
        yield image.crop((0, top, image.width, min(top + STRIP, image.height)))
