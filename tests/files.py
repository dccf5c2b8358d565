"""Files to upload, good and bad, made on the spot."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from PIL import Image

LARGEST = 256 * 1024  # bytes that the server of these tests takes; four times as many unpacked


def picture(*, size: tuple[int, int] = (8, 8), form: str = "PNG", shade: int = 0) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, (shade, 40, 90)).save(made, form)
    return made.getvalue()


def moving() -> bytes:
    made = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 250)]
    frames[0].save(made, "GIF", save_all=True, append_images=frames[1:])
    return made.getvalue()


def huge_picture() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    plain = picture()
    header = b"IHDR" + struct.pack(">2I5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    return plain[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain[33:]


GOOD = {f"{kind}/{number}.png": picture(shade=number) for kind in ("cat", "dog") for number in range(6)}


def zipped(entries: Mapping[str, bytes] | None = None, *, mode: int = 0o100644, packed: bool = True) -> bytes:
    """A zip with these files, beside good ones."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in (GOOD | dict(entries or {})).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100644 if name in GOOD else mode) << 16
            info.compress_type = archive.compression
            archive.writestr(info, content)
    return made.getvalue()


def only(entries: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return made.getvalue()


def secret() -> bytes:
    """A zip whose every file says that it is behind a password."""
    made = bytearray(zipped())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = made.find(magic)
        while place >= 0:
            made[place + offset] |= 1
            place = made.find(magic, place + 4)
    return bytes(made)


def npz(**arrays: object) -> bytes:
    made = io.BytesIO()
    np.savez(made, **({"x": np.arange(96.0).reshape(12, 8), "y": np.arange(12) % 2} | arrays))  # type: ignore[arg-type]
    return made.getvalue()


def said_to_be(shape: str) -> bytes:
    """An npz whose x says that it has another shape than it has."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    x = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    y = io.BytesIO()
    np.save(y, np.arange(12) % 2)
    return only({"x.npy": x, "y.npy": y.getvalue()})


def parquet(**columns: object) -> bytes:
    made = io.BytesIO()
    pd.DataFrame({"a": range(20), "b": [0, 1] * 10} | columns).to_parquet(made)
    return made.getvalue()


def csv(*rows: str) -> bytes:
    return "\n".join(("size,colour,kind", *rows, *(f"{n},red,{n % 2}" for n in range(20)), "")).encode()


def constant_parquet(rows: int) -> bytes:
    made = io.BytesIO()
    pd.DataFrame({"a": np.zeros(rows, "i1"), "b": np.zeros(rows, "i1")}).to_parquet(made, compression="zstd")
    return made.getvalue()


def wordy_parquet() -> bytes:
    """A word of 60,000 letters, in every row."""
    return parquet(b=["w" * 60_000] * 20)


# name, bytes, words of the refusal
UNSAFE: Mapping[str, tuple[str, Callable[[], bytes], str]] = {
    "zip that climbs out": ("a.zip", lambda: zipped({"../../evil.png": picture()}), "leads out of it"),
    "zip with an absolute path": ("a.zip", lambda: zipped({"/etc/cron.d/evil.png": picture()}), "leads out of it"),
    "zip with a drive": ("a.zip", lambda: zipped({"C:/cat/evil.png": picture()}), "leads out of it"),
    "zip with backslashes": ("a.zip", lambda: zipped({"..\\evil.png": picture()}), "leads out of it"),
    "zip with an escape sequence": ("a.zip", lambda: zipped({"cat/\x1b[2J.png": picture()}), "control characters"),
    "zip with a symlink": ("a.zip", lambda: zipped({"cat/l.png": b"/etc/passwd"}, mode=0o120777), "a link"),
    "zip with a device": ("a.zip", lambda: zipped({"cat/l.png": b""}, mode=0o020666), "a device"),
    "zip in a zip": ("a.zip", lambda: zipped({"cat/more.zip": zipped()}), "is no picture"),
    "zip in a zip called a picture": ("a.zip", lambda: zipped({"cat/more.png": zipped()}), "is no picture"),
    "zip bomb by ratio": ("a.zip", lambda: zipped({"cat/b.bmp": bytes(1_100_000)}), "unpack"),
    "zip bomb by size": ("a.zip", lambda: zipped({f"cat/{n}.bmp": bytes(500_000) for n in range(9)}), "unpacked"),
    "zip bomb by count": ("a.zip", lambda: zipped()[:-14] + b"\xff" * 4 + zipped()[-10:], "at most 65000"),
    "zip behind a password": ("a.zip", secret, "password"),
    "zip cut off": ("a.zip", lambda: zipped()[:-40], "cut off"),
    "zip with a broken middle": ("a.zip", lambda: zipped(packed=False).replace(b"IDAT", b"\0\0\0\0", 1), "no picture"),
    "zip of nothing": ("a.zip", lambda: only({}), "an empty zip"),
    "zip with a program": ("a.zip", lambda: zipped({"cat/run.sh": b"#!/bin/sh"}), "is no picture"),
    "zip with Python": ("a.zip", lambda: zipped({"cat/__init__.py": b"import os"}), "is no picture"),
    "zip with an SVG": ("a.zip", lambda: zipped({"cat/a.svg": b"<svg/>"}), "is no picture"),
    "SVG called PNG": ("a.zip", lambda: zipped({"cat/a.png": b"<svg onload='x()'/>"}), "is no picture"),
    "picture cut off": ("a.zip", lambda: zipped({"cat/a.png": picture(size=(64, 64))[:-60]}), "is no picture"),
    "picture bomb": ("a.zip", lambda: zipped({"cat/a.png": huge_picture()}), "cat/a.png"),
    "picture that moves": ("a.zip", lambda: zipped({"cat/a.gif": moving()}), "stand still"),
    "pictures without classes": ("a.zip", lambda: only({"a.png": picture()}), "one folder a class"),
    "pictures of one class": ("a.zip", lambda: only({"cat/a.png": picture()}), "one class"),
    "pickle in an npz": ("a.npz", lambda: npz(x=np.array([{}] * 12, dtype=object)), "could run code"),
    "pickle beside the arrays": ("a.npz", lambda: npz(evil=np.array([print], dtype=object)), "could run code"),
    "npz with wrong arrays": ("a.npz", lambda: only({"data.npy": b""}), "needed are x and y"),
    "npz with other files": ("a.npz", lambda: only({"x.npy": b"", "run.pkl": b""}), "arrays alone"),
    "npz with folders": ("a.npz", lambda: only({"x.npy": b"", "a/y.npy": b""}), "arrays alone"),
    "npz without labels": ("a.npz", lambda: only({"x.npy": b""}), "needed are x and y"),
    "npz of unlike lengths": ("a.npz", lambda: npz(y=np.arange(11) % 2), "12 examples"),
    "npz of unlike shapes": (
        "a.npz",
        lambda: npz(x_test=np.eye(4), y_test=np.arange(4) % 2),
        "all but the first agree",
    ),
    "npz with NaN labels": ("a.npz", lambda: npz(y=np.full(12, np.nan)), "one whole number or name each"),
    "npz with NaN values": ("a.npz", lambda: npz(x=np.full((12, 8), np.nan)), "not finite"),
    "npz of one class": ("a.npz", lambda: npz(y=np.zeros(12, int)), "one class"),
    "npz of words": ("a.npz", lambda: npz(x=np.full((12, 8), "word")), "accepted are numbers"),
    "npz that lies about its shape": ("a.npz", lambda: said_to_be("(1000000000, 1000000)"), "shorter"),
    "npz with a negative shape": ("a.npz", lambda: said_to_be("(-1, 8)"), "x"),
    "npz with code for a header": ("a.npz", lambda: said_to_be("__import__('os')"), "cannot be read"),
    "npz cut off": ("a.npz", lambda: npz()[:-30], "cut off"),
    "a single array": ("a.npz", lambda: b"\x93NUMPY\x01\x00" + bytes(80), "numpy.savez"),
    "parquet cut off": ("a.parquet", lambda: parquet()[:-20], "cannot be read as parquet"),
    "parquet with a broken middle": ("a.parquet", lambda: parquet()[:40] + bytes(200) + parquet()[240:], "parquet"),
    "parquet with lists": ("a.parquet", lambda: parquet(b=[[1]] * 20), "accepted are numbers"),
    "parquet with bytes": ("a.parquet", lambda: parquet(b=[b"\x00"] * 20), "accepted are numbers"),
    "parquet of no rows": ("a.parquet", lambda: constant_parquet(0), "no rows"),
    "parquet bomb by rows": ("a.parquet", lambda: constant_parquet(3_000_000), "unpacked"),
    "parquet bomb by words": ("a.parquet", wordy_parquet, "unpacked"),
    "CSV of 10^6 columns": ("a.csv", lambda: b"," * 10**6, "larger than"),
    "CSV of many columns": ("a.csv", lambda: b",".join(b"c%d" % n for n in range(20_000)), "20000 columns"),
    "CSV called Parquet": ("a.parquet", lambda: csv(), "does not begin as a Parquet file"),
    "Parquet called CSV": ("a.csv", lambda: parquet(), "the content is a Parquet file"),
    "zip called npz": ("a.npz", lambda: zipped(), "alone"),
    "CSV called zip": ("a.zip", lambda: csv(), "does not begin as"),
    "nothing at all": ("a.csv", lambda: b"", "0 bytes"),
    "blank lines": ("a.csv", lambda: b"\n\n\n", "no rows"),
    "header only": ("a.csv", lambda: b"size,colour,kind\n", "no rows below it"),
    "one column": ("a.csv", lambda: b"size\n1\n2\n", "one column"),
    "quote never closed": ("a.csv", lambda: csv('5,"red,1'), "never closed"),
    "too many fields": ("a.csv", lambda: csv("1,red,0,9,9"), "line 2 has 5 fields"),
    "null bytes": ("a.csv", lambda: csv("1,r\0d,0"), "control character 0x00"),
    "escape sequences": ("a.csv", lambda: csv("1,\x1b[2J,0"), "control character 0x1b"),
    "web page called CSV": ("a.csv", lambda: b"<!DOCTYPE html><html><body>1,2</body></html>", "a web page"),
    "program called text": ("a.txt", lambda: b"\x7fELF" + bytes(100), "a program"),
    "program called CSV": ("a.csv", lambda: b"MZ" + bytes(100), "a program"),
    "script called text": ("a.txt", lambda: b"#!/bin/sh\nrm -rf /\n", "a script"),
    "pickle called text": ("a.txt", lambda: b"\x80\x04\x95" + bytes(30), "a pickle"),
    "picture called text": ("a.txt", picture, "a single picture"),
    "text of one letter": ("a.txt", lambda: b"aaaa", "all are the same"),
    "binary text": ("a.txt", lambda: b"abc\0def", "control character 0x00"),
    "gzip that is broken": ("a.csv.gz", lambda: b"\x1f\x8b\x08" + bytes(30), "the gzip file is broken"),
    "gzip cut off": ("a.csv.gz", lambda: gzip.compress(csv())[:-20], "the gzip file is broken"),
    "gzip bomb": ("a.csv.gz", lambda: gzip.compress(b"a,b\n" + b"1,2\n" * 10**6), "unpacked, the file takes more"),
    "gzip in a gzip": ("a.csv.gz", lambda: gzip.compress(gzip.compress(csv())), "control character"),
    "gzip called text": ("a.txt", lambda: gzip.compress(b"words"), "a gzip file"),
    "too large": ("a.txt", lambda: b"ab" * LARGEST, "larger than"),
    "Excel's Unicode text": ("a.txt", lambda: "a\tb\n1\t2\n".encode("utf-16"), "let its name end in .tsv"),
    "Excel's workbook": ("a.xlsx", lambda: b"PK\x03\x04" + bytes(30), "save the sheet as CSV"),
    "Python": ("a.py", lambda: b"print(1)", "accepted is a name that ends in"),
    "pickle": ("a.pkl", lambda: b"\x80\x04", "accepted is a name that ends in"),
    "name with slashes": ("../../a.csv", csv, "name"),
    "absolute name": ("/etc/a.csv", csv, "name"),
    "name with a line break": ("a\n.csv", csv, "name"),
    "name with a null byte": ("a\0.csv", csv, "name"),
    "hidden name": (".bashrc.csv", csv, "name"),
    "name too long": ("a" * 200 + ".csv", csv, "name"),
    "no name": ("", csv, "name"),
}

# name, bytes, what is found
UNUSUAL: Mapping[str, tuple[str, Callable[[], bytes], str]] = {
    "byte order mark": ("a.csv", lambda: b"\xef\xbb\xbf" + csv(), "'size'"),
    "semicolons": ("a.csv", lambda: csv().replace(b",", b";"), "'colour'"),
    "Windows' line ends": ("a.csv", lambda: csv().replace(b"\n", b"\r\n"), "'kind'"),
    "comma at the end of each row": ("a.csv", lambda: csv().replace(b"\n", b",\n"), "'Unnamed: 3'"),
    "rows cut short": ("a.csv", lambda: csv("7", "8,red"), "'missing': 2"),
    "long values that begin alike": (
        "a.csv",
        lambda: csv("1," + "x" * 99 + "a,0", "1," + "x" * 99 + "b,0"),
        "distinct': 3",
    ),
    "gigantic number": ("a.csv", lambda: csv("9" * 400 + ",red,1"), "an infinite number is taken as missing (row 1 "),
    "one comma too many": ("a.csv", lambda: csv("1,red,0,"), "'rows': 21"),
    "latin-1": ("a.csv", lambda: csv("1,grün,0").decode().encode("latin-1"), "'grün': 1"),
    "UTF-16": ("a.csv", lambda: csv().decode().encode("utf-16"), "'encoding': 'utf-16'"),
    "gzip": ("a.csv.gz", lambda: gzip.compress(csv()), "'colour'"),
    "missing labels": ("a.csv", lambda: csv("1,red,NaN"), "'missing': 1"),
    "labels that are all missing": ("a.csv", lambda: csv().replace(b",0\n", b",\n").replace(b",1\n", b",\n"), "no val"),
    "one class": ("a.csv", lambda: csv().replace(b",0\n", b",1\n"), "'kind' is the same in every row"),
    "pictures of different sizes": ("a.zip", lambda: zipped({"cat/b.png": picture(size=(9, 5))}), "2 different sizes"),
    "what desktops leave": ("a.zip", lambda: zipped({"__MACOSX/cat/._a": b"", "cat/.DS_Store": b""}), "'cat': 6"),
    "npz with more arrays": ("a.npz", lambda: npz(t=np.linspace(0, 1, 8)), "not used: t"),
    "folder around the classes": ("a.zip", lambda: only({f"pets/{k}": v for k, v in GOOD.items()}), "'dog': 6"),
    "Python as text is text": ("a.txt", lambda: b"import os\nos.abort()\n", "different ones"),
}
