"""A terminal for what Rich prints, which nothing that others wrote may steer."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lrtune.printable import printable


class Screen(Console):
    """A terminal that reads no markup in what it is given, and prints only what is printable."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of anything that Rich can print, whichever way it got there."""
        for one in super().render(renderable, options):
            yield one if one.control else Segment(printable(one.text), one.style)
