"""Whatever a library raises over a bad file becomes a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from lrtune.errors import LrtuneError, UnusableFile

LONGEST = 200  # letters of a cause that are passed on


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn every error but our own into UnusableFile: a broken file makes the libraries raise anything."""
    try:
        yield
    except LrtuneError:
        raise
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableFile(f"{what}: {cause[:LONGEST]}") from error
