"""Text: UTF-8 without control characters, read a line at a time so that no line can fill the memory."""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from lrtune.errors import UnusableFile
from lrtune.wire.datasets import Description
from lrtune.wire.tasks import TextParams

LONGEST = 1024 * 1024  # characters of a line
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
PAGES = ("<!doctype", "<html", "<?xml", "<svg")
SHOWN, CUT = 5, 80


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A file of text, with or without a byte order mark. Raises UnusableFile when it is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        table = "; if it is a table, as Excel's 'Unicode Text' is, let its name end in .tsv"  # tables may be UTF-16
        more = table if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ""
        raise UnusableFile(
            f"the text is not UTF-8: found the byte 0x{found:02x}; save the file as UTF-8{more}"
        ) from None


def lines(file: TextIO, *, longest: int = LONGEST) -> Iterator[str]:
    """The lines, checked. Raises UnusableFile for control characters and for a line that is too long."""
    number = 0
    while line := file.readline(longest):
        number += 1
        if len(line) == longest:
            raise UnusableFile(f"line {number} has {longest} characters or more; accepted are shorter lines")
        if bad := CONTROL.search(line):
            raise UnusableFile(f"line {number} has the control character 0x{ord(bad[0]):02x}; accepted is plain text")
        yield line


def of_text(path: Path) -> Description:
    """How many lines and characters, and how many different ones. Raises UnusableFile."""
    breaks = total = 0
    last = ""
    letters: set[str] = set()
    with opened(path) as file:
        for block in _blocks(file):
            if bad := CONTROL.search(block):
                raise UnusableFile(f"the text has the control character 0x{ord(bad[0]):02x}; accepted is plain text")
            letters.update(block)
            breaks, total, last = breaks + block.count("\n"), total + len(block), block[-1]
        file.seek(0)
        first = [[line.rstrip("\r\n")[:CUT]] for line in islice(iter(lambda: file.readline(LONGEST), ""), SHOWN)]
    if len(letters) < 2:
        raise UnusableFile(f"the text has {total} characters and all are the same; needed are two different ones")
    count = breaks + (last != "\n")  # the last line may lack its end
    return Description(rows=count, first=first, notes=[f"{total} characters, {len(letters)} different ones"])


def measured(path: Path) -> tuple[int, int]:
    """How many characters a text has, and how many different ones. Raises UnicodeDecodeError."""
    text = path.read_text(encoding="utf-8-sig")
    return len(text), len(set(text))


def too_short(characters: int, different: int, params: TextParams) -> str:
    """Why a text is too short to learn from as a job says, if it is: asked by the server, and by the worker."""
    held, least = round(characters * params.validation), params.context + 1
    if different >= 2 and min(characters - held, held) >= least:
        return ""
    return (
        f"has {characters} character{'s' * (characters != 1)}, {different} of them different; needed are two, and "
        f"{least} in the training and in the validation part (one more than the context)"
    )


def _blocks(file: TextIO) -> Iterator[str]:
    return iter(lambda: file.read(LONGEST), "")
