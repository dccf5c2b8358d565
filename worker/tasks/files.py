"""Data files: named relative to a data directory, never outside it, and unreadable ones explained in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrtune.errors import TaskError, UnusableFile
from lrtune.uploads import mirror
from lrtune.uploads.places import below


def locate(data_dir: Path, name: str, *, field: str = "dataset") -> Path:
    """The file of a name below the data directory. Raises TaskError when it leads outside, or to nothing."""
    try:
        path = below(data_dir, name)
    except UnusableFile as error:
        raise TaskError(f"{field}: {error}") from None
    if not path.exists():
        raise TaskError(f"{field}: there is no {name!r} below LRTUNE_DATA_DIR; there are {mirror.listed(data_dir)}")
    return path


@contextmanager
def reading(name: str, form: str, *, field: str = "dataset") -> Iterator[None]:
    """Turn what the libraries raise over a bad file into a TaskError that names the file and the form expected."""
    try:
        yield
    except TaskError:
        raise
    except UnusableFile as error:  # a sentence already
        raise TaskError(f"{field}: {name!r}: {error}") from None
    except Exception as error:  # the libraries raise anything over a broken file, even SyntaxError and struct.error
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise TaskError(f"{field}: {name!r} could not be read as {form}: {cause}") from error


def read_text(path: Path, name: str) -> str:
    """The text of a UTF-8 file."""
    with reading(name, "UTF-8 text"):
        return path.read_text(encoding="utf-8-sig")
