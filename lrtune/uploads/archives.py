"""Zip archives, read in place and never unpacked to disk: their list of contents is checked before anything is read."""

import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from lrtune.errors import UnusableFile
from lrtune.uploads.reading import reading

END = struct.Struct("<4s4H2LH")  # the end of the list: magic, disks, entries, size and place of the list, comment
LOCATOR = 20  # bytes of the mark of a zip64 archive, just before the end
MOST_ENTRIES = 65_000
MOST_LISTED = 32 * 1024 * 1024  # bytes of the list itself
ENCRYPTED = 0x1
PLAIN = (ZIP_STORED, ZIP_DEFLATED)


@contextmanager
def opened(path: Path) -> Iterator[ZipFile]:
    """An archive whose list is of a bearable length. Raises UnusableFile."""
    _short_list(path)
    with reading("the archive cannot be read"), ZipFile(path) as archive:
        yield archive


def _short_list(path: Path) -> None:
    """Refuse a long list before Python makes an object of each entry."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - END.size - 65_536 - LOCATOR))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < END.size:
        raise UnusableFile("the archive is cut off: its list of contents is missing")
    entries, listed = END.unpack_from(tail, place)[4:6]
    zip64 = tail[max(0, place - LOCATOR) : place].startswith(b"PK\x06\x07")
    if zip64 or entries > MOST_ENTRIES or listed > MOST_LISTED:
        raise UnusableFile(f"the archive lists {entries} files or more; at most {MOST_ENTRIES} are accepted")


def entries(archive: ZipFile, *, largest: int) -> list[ZipInfo]:
    """The files of an archive, each checked. Raises UnusableFile."""
    found = [info for info in archive.infolist() if not info.is_dir()]
    seen: set[str] = set()
    for info in archive.infolist():
        _harmless(info)
        if info.filename in seen:
            raise UnusableFile(f"the archive has two files {info.filename[:60]!r}")
        seen.add(info.filename)
    unpacked = sum(info.file_size for info in found)
    if unpacked > largest:
        raise UnusableFile(f"unpacked, the archive takes {unpacked} bytes; at most {largest} are accepted")
    return found


def _harmless(info: ZipInfo) -> None:
    name = info.orig_filename
    path = name.replace("\\", "/")
    if path.startswith("/") or ".." in PurePosixPath(path).parts or any(mark in name for mark in ("\0", ":")):
        raise UnusableFile(f"the archive has a file {name[:60]!r}, which leads out of it")
    if "\\" in name:
        raise UnusableFile(f"the archive has a file {name[:60]!r}; accepted are folders with a slash, /, between them")
    if not name.isprintable():
        raise UnusableFile(f"the archive has a file {name[:60]!r}; accepted are names without control characters")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnusableFile(f"the archive has {name[:60]!r}, which is a link or a device; accepted are plain files")
    if info.flag_bits & ENCRYPTED:
        raise UnusableFile(f"the archive has {name[:60]!r} behind a password; accepted are files without one")
    if info.compress_type not in PLAIN:
        raise UnusableFile(f"the archive has {name[:60]!r}, which is packed in a rare way; accepted is deflate")
