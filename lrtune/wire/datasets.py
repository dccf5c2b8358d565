"""Uploaded data as the service describes it; a job names a dataset by its name or its id.

The id is the SHA-256 of the bytes, which lie below the data directory at `file`, where the workers read them.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from lrtune.wire.people import ADMIN
from lrtune.wire.results import Result

FEW = 20  # different values up to which they are counted one by one, and whole numbers are taken for classes
FOLDER = "uploads"  # below the data directory


def fitting(file: str) -> str:
    """The name of a file that nobody names: its own, in characters that names may have, as on the page."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", file) if not unicodedata.combining(one))
    return re.sub(r"^[^A-Za-z0-9_]+", "", re.sub(r"[^A-Za-z0-9_ .()+-]", "_", plain))[-95:] or "data"


class Kind(StrEnum):
    """What a file holds; the value is its suffix on disk."""

    CSV = "csv"
    PARQUET = "parquet"
    NPZ = "npz"
    TEXT = "txt"
    IMAGES = "zip"


SUFFIXES: Mapping[str, Kind] = {
    ".csv": Kind.CSV,
    ".csv.gz": Kind.CSV,
    ".tsv": Kind.CSV,
    ".tsv.gz": Kind.CSV,
    ".parquet": Kind.PARQUET,
    ".pq": Kind.PARQUET,
    ".npz": Kind.NPZ,
    ".txt": Kind.TEXT,
    ".zip": Kind.IMAGES,
}
TAKEN_BY: Mapping[str, tuple[Kind, ...]] = {
    "tabular": (Kind.CSV, Kind.PARQUET),
    "images": (Kind.NPZ, Kind.IMAGES),
    "text": (Kind.TEXT,),
    "huggingface": (Kind.CSV, Kind.PARQUET, Kind.TEXT),
}


class Column(Result):
    """A column of a table or an array of an npz file; `distinct` is null where there are more than were counted.

    Of a table's: `why` says what was decided about it; one that is `left_out` is not learned from. `parts` are the
    numbers that a date becomes, `whole` is whether all its numbers are, `unfit` why its numbers cannot be trained on.
    `counts` is how often each of its values comes, where they are few.
    """

    name: str
    type: str
    missing: int = 0
    distinct: int | None = None
    why: str = ""
    left_out: bool = False
    parts: list[str] = []
    whole: bool = False
    unfit: str = ""
    counts: dict[str, int] = {}


class Description(Result):
    """What a file holds; `first` are its first rows as text, cut short.

    `header` is whether a table names its columns; the columns of one that does not are called 0, 1, 2 ... `notes` say
    what was decided and left out; `asks` are the parameters that a job has to give, each with the reason. `read_as` is
    how a CSV file was understood: its separator, decimal mark and encoding. `reader` is the version that read it.
    """

    rows: int
    columns: list[Column] = []
    header: bool = False
    classes: dict[str, int] = {}
    first: list[list[str | None]] = []
    notes: list[str] = []
    asks: dict[str, str] = {}
    read_as: dict[str, str] = {}
    reader: int = 0


class DatasetSummary(Result):
    """An uploaded dataset in a list: what it is called, how large it is, and how many `jobs` name it.

    What was found in it says it alone.
    """

    id: str
    name: str
    owner: str = ADMIN
    kind: Kind
    rows: int
    columns: int
    bytes: int
    file: str
    created_at: datetime
    jobs: int = 0


class Dataset(Description):
    """An uploaded dataset; `file` is where it lies below the data directory, and so many `jobs` name it."""

    id: str
    name: str
    owner: str = ADMIN
    kind: Kind
    bytes: int
    file: str
    created_at: datetime
    jobs: int = 0


def file_of(digest: str, kind: Kind) -> str:
    """Where the bytes of a digest lie, relative to the data directory."""
    return f"{FOLDER}/{digest}.{kind}"
