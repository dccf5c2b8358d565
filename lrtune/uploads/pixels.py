"""One picture as it is meant: upright, its transparency on white, and all of its depth. Pillow is imported late."""

import hashlib
from collections.abc import Callable
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
WHITES = (1.0, 255.0, 65_535.0, 2.0**32 - 1)


class Damaged(UnusableFile):
    """A picture that cannot be read. A few of them are left out of a set."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in RGB, or in F (one float a pixel) where it has more than 8 bits.

    `white` is the value that stands for white: 255, 65535, or None for 32 bits and floats, where only the set can tell.
    """

    image: "Image"
    white: float | None
    transparent: bool
    turned: bool

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
            turned = _turned(image)
            image.load()
            with suppress(Exception):  # over EXIF that cannot be written again; the picture is turned by then
                ImageOps.exif_transpose(image, in_place=True)
            return Picture(*_meant(image, name), turned)
    except (LrtuneError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableFile(f"{name!r} has far more than the {MOST_PIXELS} pixels that are accepted") from None
    except UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise Damaged(f"{name!r} is no picture: it is none of {formats}, of a rare kind, or damaged") from None
    except Exception as error:  # Pillow raises anything over a broken file, even SyntaxError and struct.error
        raise Damaged(f"{name!r} is no picture that can be read to its end: it is cut off or damaged") from error


def _bearable(image: "Image", name: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise UnusableFile(f"{name!r} has {image.width}x{image.height} pixels; at most {MOST_PIXELS} are accepted")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise UnusableFile(f"{name!r} has several frames; accepted are pictures that stand still")


def _turned(image: "Image") -> bool:
    """Whether the camera was held otherwise than upright; cameras and editors write much that cannot be read."""
    with suppress(Exception):
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    return False


def _meant(image: "Image", name: str) -> "tuple[Image, float | None, bool]":
    """The pixels, their white, and whether anything was transparent."""
    if image.mode == "F" or image.mode.startswith("I"):
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
        return _floats(image, name), WHITES[2] if sixteen else None, False
    if image.mode in UNKNOWN:
        raise UnusableFile(f"{name!r} has colours of the kind {image.mode}; accepted are grey, RGB, CMYK and palettes")
    if not image.has_transparency_data:
        return image.convert("RGB"), 255.0, False
    from PIL.Image import new

    colours = image.convert("RGBA")
    alpha = colours.getchannel("A")
    white = new("RGB", image.size, "white")
    white.paste(colours, mask=alpha)
    return white, 255.0, bool(alpha.getextrema()[0] != 255)


def _floats(image: "Image", name: str) -> "Image":
    from PIL.Image import fromarray

    if image.mode == "I" and image.format == "TIFF" and tuple(image.tag_v2.get(SAMPLES, UNSIGNED)) == UNSIGNED:  # type: ignore[attr-defined]
        return fromarray(np.asarray(image).view(np.uint32).astype(np.float32))  # Pillow takes them for signed ones
    shown = image if image.mode == "F" else image.convert("I").convert("F")
    if any(not np.isfinite(np.asarray(strip)).all() for strip in _strips(shown)):
        raise UnusableFile(f"{name!r} has pixels that are not finite numbers (NaN or infinite)")
    return shown


def _strips(image: "Image") -> "list[Image]":
    rows = range(0, image.height, STRIP)
    return [image.crop((0, top, image.width, min(top + STRIP, image.height))) for top in rows]
