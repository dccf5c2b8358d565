"""Pictures and npz files as people really have them, made on the spot; each set has two classes, dark and light."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EACH = 12
RANDOM = np.random.default_rng(0)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    made = io.BytesIO()
    image.save(made, form, **options)
    return made.getvalue()


def shade(light: bool) -> NDArray[np.float64]:
    """[8, 8] from 0 to 1: noise around 0.2 or 0.8, no two alike."""
    return np.asarray(0.2 + 0.6 * light + RANDOM.uniform(-0.1, 0.1, (8, 8)))


def grey(light: bool) -> Image.Image:
    return Image.fromarray((shade(light) * 255).astype(np.uint8))


def deep(light: bool, *, white: float, kind: str, form: str) -> bytes:
    return encoded(Image.fromarray((shade(light) * white).astype(kind)), form)


def rgb16(light: bool, *, alpha: bool = False) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    values = (np.repeat(shade(light)[..., None], 3 + alpha, axis=2) * 65_535).astype(">u2")
    if alpha:
        values[..., 3] = 65_535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">2I5B", 8, 8, 16, 6 if alpha else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one)) for name, one in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def uint32(light: bool) -> bytes:
    """A TIFF of unsigned numbers beyond 2**31, which Pillow writes as signed ones: the tag is made unsigned."""
    values = (shade(light) * (2**32 - 1)).astype(np.uint32)
    signed = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    return encoded(Image.fromarray(values.view(np.int32)), "TIFF").replace(signed, signed[:8] + b"\1\0\0\0")


def see_through(light: bool, mode: str = "RGBA") -> bytes:
    """A black square in the upper or lower half, which only the transparency shows."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[slice(4) if light else slice(4, 8)] = RANDOM.integers(100, 255, (4, 8))
    black = Image.new("RGBA", (8, 8))
    black.putalpha(Image.fromarray(alpha))
    return encoded(black.convert(mode) if mode != "P" else black.quantize(16))


def turned(image: Image.Image, orientation: int) -> bytes:
    """The picture as a camera stores it that was held so."""
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image if stored is None else image.transpose(stored), exif=exif)


def halves(light: bool) -> Image.Image:
    """Bright above or below."""
    made = np.zeros((8, 8), np.uint8)
    made[slice(4) if light else slice(4, 8)] = RANDOM.integers(150, 255, (4, 8))
    return Image.fromarray(made)


def classes(
    make: Callable[[bool], bytes], *, each: int = EACH, suffix: str = "png", below: str = ""
) -> dict[str, bytes]:
    """{folder/class/number.suffix: picture}, of each class the same number."""
    kinds = (("dark", False), ("light", True))
    return {f"{below}{kind}/{n:02}.{suffix}": make(light) for kind, light in kinds for n in range(each)}


def plain(light: bool) -> bytes:
    return encoded(grey(light))


def mixed() -> Mapping[str, bytes]:
    """One of every kind in each class, all of the same meaning."""
    makes: tuple[tuple[str, Callable[[bool], bytes]], ...] = (
        ("png", plain),
        ("png", rgb16),
        ("png", lambda light: deep(light, white=65_535, kind="uint16", form="PNG")),
        ("tif", lambda light: deep(light, white=1, kind="float32", form="TIFF")),
        ("png", lambda light: encoded(grey(light).convert("RGBA").resize((5, 11)))),
        ("png", lambda light: encoded(grey(light).convert("P"))),
        ("jpg", lambda light: encoded(grey(light).convert("CMYK"), "JPEG")),
        ("gif", lambda light: encoded(grey(light), "GIF")),
        ("webp", lambda light: encoded(grey(light).convert("RGB"), "WEBP")),
    )
    sets = (classes(make, each=2, suffix=f"{n}.{suffix}") for n, (suffix, make) in enumerate(makes))
    return {name: content for one in sets for name, content in one.items()}


def tiff(mode: str, light: bool) -> bytes:
    return encoded(grey(light).convert(mode), "TIFF")


# the pictures, and what must be said of them
READ: Mapping[str, tuple[Callable[[], Mapping[str, bytes]], str]] = {
    "grey": (lambda: classes(plain), ""),
    "16 bits": (
        lambda: classes(lambda light: deep(light, white=65_535, kind="uint16", form="PNG")),
        "24 pictures of 16",
    ),
    "16 bits, of which few are used": (
        lambda: classes(lambda light: deep(light, white=120, kind="uint16", form="PNG")),
        "of 16 bits",
    ),
    "16 bits in TIFF": (
        lambda: classes(lambda light: deep(light, white=65_535, kind="uint16", form="TIFF"), suffix="tif"),
        "of 16 bits",
    ),
    "16 bits in PGM": (
        lambda: classes(lambda light: deep(light, white=65_535, kind="uint16", form="PPM"), suffix="pgm"),
        "of 16 bits",
    ),
    "16 bits in colour": (lambda: classes(rgb16), ""),
    "16 bits in colour, opaque": (lambda: classes(lambda light: rgb16(light, alpha=True)), "the upper 8 are read"),
    "32 bits": (
        lambda: classes(lambda light: deep(light, white=2**31, kind="int32", form="TIFF"), suffix="TIFF"),
        "4.29497e+09 is taken for white",
    ),
    "32 bits without a sign": (lambda: classes(uint32, suffix="tiff"), "4.29497e+09 is taken for white"),
    "32 bits, of which 12 are used": (
        lambda: classes(lambda light: deep(light, white=4095, kind="int32", form="TIFF"), suffix="tif"),
        "65535 is taken for white",
    ),
    "floats up to 1": (
        lambda: classes(lambda light: deep(light, white=1, kind="float32", form="TIFF"), suffix="tif"),
        "of which 1 is taken for white",
    ),
    "floats below 0": (
        lambda: classes(lambda light: deep(light, white=-9000, kind="float32", form="TIFF"), suffix="tif"),
        "32 bits or floats from -8",
    ),
    "1 bit": (lambda: classes(lambda light: encoded(halves(light).convert("1"))), ""),
    "a palette": (lambda: classes(lambda light: encoded(grey(light).convert("P"))), ""),
    "CMYK in JPEG": (lambda: classes(lambda light: encoded(grey(light).convert("CMYK"), "JPEG"), suffix="jpg"), ""),
    "CMYK in TIFF": (lambda: classes(lambda light: tiff("CMYK", light), suffix="tif"), ""),
    "a shape that is transparency": (lambda: classes(see_through), "24 pictures with transparency, put on white"),
    "grey with transparency": (lambda: classes(lambda light: see_through(light, "LA")), "put on white"),
    "a palette with transparency": (lambda: classes(lambda light: see_through(light, "P")), "put on white"),
    "cameras held otherwise": (
        lambda: classes(lambda light: turned(halves(light), int(RANDOM.choice([3, 6, 8])))),
        "24 pictures turned as the camera says",
    ),
    "a split of their own": (lambda: sides("train/", "test/"), "'test' (24) is measured on"),
    "every kind together": (mixed, "2 different sizes"),
}

# the pictures, and the words of the refusal
REFUSED: Mapping[str, tuple[Callable[[], Mapping[str, bytes]], str]] = {
    "white on transparency": (
        lambda: classes(lambda light: encoded(Image.new("RGBA", (8, 8), (255, 255, 255, 9 + 99 * light)))),
        "all 24 pictures are the same, with their transparency on white",
    ),
    "all the same": (lambda: classes(lambda _: encoded(Image.new("L", (8, 8), 7))), "all 24 pictures are the same"),
    "NaN": (
        lambda: classes(plain) | {"dark/n.tif": encoded(Image.fromarray(np.full((4, 4), np.nan, "f4")), "TIFF")},
        "'dark/n.tif' has pixels that are not finite",
    ),
    "too many that are damaged": (
        lambda: classes(plain) | {"dark/x.png": b"", "light/y.jpg": encoded(grey(True), "JPEG")[:-99]},
        "2 of 26 pictures cannot be read; at most 5%",
    ),
    "a class of damaged pictures only": (
        lambda: {f"dark/{n}.png": plain(False) for n in range(40)} | {"light/0.png": b"\x89PNG"},
        "all pictures are of one class, 'dark'",
    ),
}


def sides(*folders: str, each: int = EACH) -> dict[str, bytes]:
    """A set below every one of these folders."""
    return {name: content for below in folders for name, content in classes(plain, each=each, below=below).items()}


# the pictures, how many are trained on and measured on, and what must be said
SPLIT: Mapping[str, tuple[Callable[[], Mapping[str, bytes]], tuple[int, int], str]] = {
    "train, test": (lambda: sides("train/", "test/"), (24, 24), "'train' (24 pictures) is trained on, 'test' (24)"),
    "Train, Valid": (lambda: sides("Train/", "Valid/"), (24, 24), "'Valid' (24) is measured on"),
    "TRAINING, validation, in a folder": (
        lambda: sides("my data/TRAINING/", "my data/validation/"),
        (24, 24),
        "'validation' (24) is measured on",
    ),
    "training_set twice": (
        lambda: sides("training_set/training_set/", "test_set/test_set/"),
        (24, 24),
        "'test_set' (24) is measured on",
    ),
    "train, val, test": (
        lambda: sides("train/", "val/") | sides("test/", each=3),
        (24, 24),
        "not used: 'test' with 6 pictures, beside validation",
    ),
    "the class outside": (
        lambda: {
            name.replace("/", f"/{side}/"): content
            for side in ("train", "val")
            for name, content in classes(plain, each=6).items()
        },
        (12, 12),
        "'val' (12) is measured on",
    ),
    "a test without classes": (
        lambda: sides("train/") | {f"test/{n}.png": plain(True) for n in range(4)},
        (19, 5),
        "not used: 'test' with 4 pictures, which have no class",
    ),
    "a class that is not measured": (
        lambda: sides("train/", "test/") | {"train/odd/1.png": plain(True)},
        (25, 24),
        "only in the training part, so never measured: 'odd'",
    ),
    "the same picture on both sides": (
        lambda: {side + name: content for name, content in classes(plain).items() for side in ("train/", "test/")},
        (24, 24),
        "24 pictures are in both parts of the split",
    ),
    "train alone": (lambda: sides("train/"), (19, 5), ""),
    "valid and invalid": (
        lambda: {f"{kind}/{n}.png": plain(kind == "valid") for kind in ("valid", "invalid") for n in range(12)},
        (19, 5),
        "",
    ),
    "trains and buses": (
        lambda: {f"{kind}/{n}.png": plain(kind == "bus") for kind in ("train", "bus") for n in range(12)},
        (19, 5),
        "",
    ),
    "two batches": (lambda: sides("monday/", "tuesday/"), (38, 10), "the innermost folders are the classes"),
}

# the pictures, and the words of the refusal
UNSPLIT: Mapping[str, tuple[Callable[[], Mapping[str, bytes]], str]] = {
    "a class that is measured alone": (
        lambda: sides("train/", "test/") | {"test/odd/1.png": plain(True)},
        "'odd' of the test part is not in the training part",
    ),
    "nothing left to measure on": (
        lambda: sides("train/") | {"val/dark/1.png": b""},
        "'val/dark/1.png' is no picture: it is none of PNG",
    ),
    "test, val": (lambda: sides("test/", "val/"), "no train with classes in it"),
    "train, test, and no classes": (
        lambda: {f"{side}/{n}.png": plain(True) for side in ("train", "test") for n in range(4)},
        "in a split; accepted is CLASS/PICTURE",
    ),
    "train, and a second": (lambda: sides("train/", "more/"), "found the folders 'more' beside a split"),
    "train, test, and a third": (lambda: sides("train/", "test/", "more/"), "found the folders 'more' beside a split"),
    "classes and folders in classes": (
        lambda: classes(plain) | {"dark/more/1.png": plain(True)},
        "'dark/more/1.png', and pictures at other depths",
    ),
}


def npz_of(**arrays: object) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)  # type: ignore[arg-type]
    return made.getvalue()
