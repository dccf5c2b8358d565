"""What the command line prints: the only way out to a terminal, which nothing that others wrote may steer."""

import codecs
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lrtune import errors
from lrtune.printable import printable

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

    from lrtune.cli.screen import Screen

    Answer = BaseModel | dict[str, Any]


INSTEAD = str.maketrans("┤│└─▁▂▃▄▅▆▇█★", "||+-12345678*")  # what is printed where a terminal has no such characters


def _like(error: UnicodeError) -> tuple[str, int]:
    """A curve is drawn in dots there, and letters that are missing are question marks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(INSTEAD)
    drawn = (" " if one == "\u2800" else "." if "\u2800" < one <= "\u28ff" else one for one in text)
    return "".join(one if one.isascii() else "?" for one in drawn), error.end


def never_fail() -> None:
    """Let what a terminal or a pipe has no characters for be printed in others (LANG=C, Windows' code pages)."""
    codecs.register_error("lrtune", _like)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="lrtune")


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text on stdout, or on stderr."""
    typer.echo(printable(text) + end, err=err, nl=False)


def as_json(value: "BaseModel | Any") -> None:
    """Print JSON on one line, all but ASCII escaped: lossless, and harmless on a screen."""
    plain = json.loads(value.model_dump_json()) if hasattr(value, "model_dump_json") else value
    say(json.dumps(plain, separators=(",", ":")))


def screen(**options: Any) -> "Screen":
    """A terminal to print on what Rich can print."""
    from lrtune.cli.screen import Screen

    return Screen(**options)


def show(found: "Answer | tuple[Answer, ...]", as_json: bool, view: "Callable[[], RenderableType]") -> None:
    """An answer as JSON, or as a person reads it."""
    if as_json:
        say(json.dumps(_plain(found), indent=2))
    else:
        screen().print(view())


def _plain(found: "Answer | Iterable[Answer]") -> Any:
    if isinstance(found, dict):
        return found
    return [_plain(one) for one in found] if isinstance(found, tuple) else found.model_dump(mode="json")  # type: ignore[union-attr]


def write(output: Path, content: bytes) -> None:
    """Write a file that the user named. Raises Invalid."""
    try:
        output.write_bytes(content)
    except OSError as error:
        raise errors.Invalid(f"output: {output}: {error.strerror or error}") from None
