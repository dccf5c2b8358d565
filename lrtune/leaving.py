"""How a loop was left, in words: for a generator that is dropped from a `for` without being told why.

While a frame unwinds, only the traceback that grows tells of the exception, until somebody catches it (on Python 3.11;
from 3.12 on the traceback is the exception's from the first).
"""

import gc
import inspect
import traceback
from dis import opname
from pathlib import Path
from types import FrameType, TracebackType

from lrtune.errors import Invalid
from lrtune.printable import storable


def unwinding(frame: FrameType | None) -> TracebackType | None:
    """The traceback of the exception that leaves a frame at this moment, if one does.

    A generator around ours (a progress bar) is closed as ours is, so the frame that counts is the one that closes it.
    """
    while frame is not None and _closing(frame):
        frame = frame.f_back
    for at in gc.get_referrers(frame) if frame else ():
        if isinstance(at, TracebackType) and at.tb_frame is frame and at.tb_lasti == frame.f_lasti:
            return at
    return None


def _closing(frame: FrameType) -> bool:
    """Whether a frame is a generator's that has ended where it had waited."""
    code = frame.f_code
    generator = code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    return bool(generator) and opname[code.co_code[frame.f_lasti]] in ("YIELD_VALUE", "RESUME")


def thrown(at: TracebackType | None) -> BaseException | None:
    """The exception of a traceback, once it is known: the one that has it, or what has grown out of it."""
    while at is not None:
        found = gc.get_referrers(at)
        for one in found:
            if isinstance(one, BaseException) and one.__traceback__ is at:
                return one
        at = next((one for one in found if isinstance(one, TracebackType) and one.tb_next is at), None)
    return None


def said(error: BaseException) -> str:
    """An exception as its traceback's last line has it."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def refused(error: BaseException) -> bool:
    """Whether this package itself raised it at what a script had said, so that the same script would hear it again."""
    raised = traceback.extract_tb(error.__traceback__)
    ours = bool(raised) and Path(__file__).parent in Path(raised[-1].filename).parents
    return ours and isinstance(error, (Invalid, ValueError, TypeError))


def place(at: TracebackType) -> str:
    """Where an exception was raised, with the line."""
    last = traceback.extract_tb(at)[-1]
    return f"{last.filename}:{last.lineno} ({last.line})"


def text(reason: str) -> str:
    """A reason that every database takes."""
    return storable(reason[:4000])[:4000]
