"""Text that others wrote, made safe to print and to keep: names, tags, reasons, events, metrics, outputs of commands.

The one place that decides what a terminal may be sent. What `lrtune` prints goes through it in `lrtune/cli/out.py`, and
what a worker logs in `Safe`.
"""

import logging
import re

# Control characters but tabs and the ends of lines, and what reorders, hides or ends a line without being seen.
STEERING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]|\r(?!\n)"
)
INSTEAD = "\ufffd"


def printable(text: str) -> str:
    """The text with the replacement character for everything that would steer a terminal."""
    return STEERING.sub(INSTEAD, text)


class Safe(logging.Formatter):
    """Lines of a log, which others' words must not steer either."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().format(record))


def storable(text: str) -> str:
    """A text as every database and every request takes it: whole characters, and no NUL; what is none is escaped."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
