"""What the command line prints: the only way out to a terminal, which nothing that others wrote may steer."""

import json
from collections.abc import Iterable
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lrtune.printable import printable


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text on stdout, or on stderr."""
    typer.echo(printable(text) + end, err=err, nl=False)


def as_json(value: BaseModel | Any, *, indent: int | None = None) -> None:
    """Print JSON, all but ASCII escaped: lossless, and harmless on a screen. On one line unless indented."""
    plain = json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else value
    say(json.dumps(plain, indent=indent, separators=None if indent else (",", ":")))


class Screen(Console):
    """A terminal that reads no markup in what it is given, and prints only what is printable."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of anything that Rich can print, whichever way it got there."""
        for one in super().render(renderable, options):
            yield one if one.control else Segment(printable(one.text), one.style)
