"""Describing an uploaded file before it is kept: what it holds, and that nothing in it can do harm.

`describe` reads the file once, a part at a time, and raises `UnusableFile` with a sentence for whatever no task
could use. Nothing is ever unpacked to disk, and nothing that could run is ever loaded.
"""

from pathlib import Path

from lrtune.errors import UnusableFile
from lrtune.uploads import arrays, pictures, tables, texts
from lrtune.uploads.reading import reading
from lrtune.wire.datasets import SUFFIXES, Description, Kind

__all__ = ["describe", "kind_of"]
SNIFFED = 512
PACKED = "a gzip file"  # a table may be one
MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a zip archive or an npz file"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x93NUMPY", "a single NumPy array; save it with numpy.savez under the names x and y"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"\x1f\x8b", PACKED),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a single picture"),
    (b"\xff\xd8\xff", "a single picture"),
    (b"GIF8", "a single picture"),
    (b"SQLite format 3", "a database"),
    (b"\x80\x04", "a pickle, which could run code"),
    (b"\x80\x05", "a pickle, which could run code"),
)
SHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
ZIPPED = "a zip archive or an npz file"
STARTS = {Kind.PARQUET: "a Parquet file", Kind.NPZ: ZIPPED, Kind.IMAGES: ZIPPED}


def kind_of(name: str) -> Kind:
    """What a file is by its name. Raises UnusableFile for a suffix that no task reads."""
    ending = next((one for one in SUFFIXES if name.lower().endswith(one)), None)
    if ending is None:
        more = "; save the sheet as CSV" if name.lower().endswith(SHEETS) else ""
        raise UnusableFile(f"name: found {name[:60]!r}; accepted is a name that ends in {', '.join(SUFFIXES)}{more}")
    return SUFFIXES[ending]


def describe(path: Path, kind: Kind, *, largest: int) -> Description:
    """What the file holds; `largest` is how many bytes it may take unpacked. Raises UnusableFile."""
    with path.open("rb") as file:
        start = file.read(SNIFFED)
    if not start:
        raise UnusableFile("the file is empty: it has 0 bytes")
    _agree(start, kind)
    with reading(f"the file cannot be read as {kind}"):
        if kind in (Kind.CSV, Kind.PARQUET):
            return tables.describe(path, largest=largest)
        if kind is Kind.NPZ:
            return arrays.of_npz(path, largest=largest)
        if kind is Kind.IMAGES:
            return pictures.of_zip(path, largest=largest)
        return texts.of_text(path)


def _agree(start: bytes, kind: Kind) -> None:
    """The content must be what the name says. Raises UnusableFile."""
    found = next((words for magic, words in MAGIC if start.startswith(magic)), None)
    wanted = STARTS.get(kind)
    if found == wanted or (kind is Kind.CSV and found == PACKED):
        return
    if found is None:
        raise UnusableFile(f"the name says {kind}, but the content does not begin as {wanted} does")
    raise UnusableFile(f"the name says {kind}, but the content is {found}")
