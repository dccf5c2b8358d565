"""What the command line prints: the only way out to a terminal, which nothing that others wrote may steer."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lrtune import errors
from lrtune.printable import printable

Answer = BaseModel | dict[str, Any]


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text on stdout, or on stderr."""
    typer.echo(printable(text) + end, err=err, nl=False)


def as_json(value: BaseModel | Any) -> None:
    """Print JSON on one line, all but ASCII escaped: lossless, and harmless on a screen."""
    plain = json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else value
    say(json.dumps(plain, separators=(",", ":")))


class Screen(Console):
    """A terminal that reads no markup in what it is given, and prints only what is printable."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of anything that Rich can print, whichever way it got there."""
        for one in super().render(renderable, options):
            yield one if one.control else Segment(printable(one.text), one.style)


def show(found: Answer | tuple[Answer, ...], as_json: bool, view: Callable[[], RenderableType]) -> None:
    """An answer as JSON, or as a person reads it."""
    if as_json:
        say(json.dumps(_plain(found), indent=2))
    else:
        Screen().print(view())


def _plain(found: Answer | Iterable[Answer]) -> Any:
    if isinstance(found, BaseModel):
        return found.model_dump(mode="json")
    return found if isinstance(found, dict) else [_plain(one) for one in found]


def write(output: Path, content: bytes) -> None:
    """Write a file that the user named. Raises Invalid."""
    try:
        output.write_bytes(content)
    except OSError as error:
        raise errors.Invalid(f"output: {error}") from None
