"""The settings of a server or a worker as its environment has them, or, in words, why they cannot be."""

import re
import sys
from collections.abc import Iterator
from typing import Annotated, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

PASSWORD, HIDDEN = re.compile(r"://([^/@:]*):[^/@]*@"), r"://\1:***@"  # of a URL
DATABASES = re.compile(r"(sqlite|postgresql)(\+\w+)?:/")
ADDRESS = (
    "accepted is an address such as sqlite:///.lrtune/lrtune.db or postgresql+psycopg://lrtune:secret@db.example/lrtune"
)
REFUSED = 2  # the exit code, as of the command line
Settings = TypeVar("Settings", bound=BaseModel)


def _database(url: str) -> str:
    if not DATABASES.match(url):
        raise ValueError(ADDRESS)
    return url


DatabaseUrl = Annotated[str, AfterValidator(_database)]


def read(kind: type[Settings]) -> Settings:
    """The settings of the environment. Ends the process, in words, where one of them cannot be accepted."""
    try:
        return kind()
    except ValidationError as error:
        end("\n".join(refused(error)))


def end(words: str) -> NoReturn:
    """End a program whose settings cannot be accepted."""
    print(words, file=sys.stderr)
    raise SystemExit(REFUSED)


def refused(error: ValidationError) -> Iterator[str]:
    """Each variable that cannot be accepted, with why and with what was found; of a secret never what it is."""
    for one in error.errors():
        field, words = "_".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")
        explained = words != one["msg"] or field.endswith(("key", "secret"))  # our own words say what was found
        found = "" if explained else f"; found {PASSWORD.sub(HIDDEN, repr(one['input']))}"
        yield f"LRTUNE_{field.upper()}: {words}{found}"
