"""What went wrong in somebody's own code, for whoever wrote it: their frames, not ours.

The sentence is the reason of a failed trial; the traceback stands beside it in the job's events.
"""

import importlib
import traceback
from pathlib import Path

from lrtune import errors

ROOT = Path(__file__).resolve().parent.parent
OURS = (f"{ROOT / 'worker'}/", f"{Path(errors.__file__).parent}/", importlib.__file__, "<frozen ")
TASKS = f"{ROOT / 'worker' / 'tasks'}/"  # a built-in task has an author, too
LONGEST = 8000  # characters of a traceback that are kept: its end, where the error stands


def words(error: BaseException) -> str:
    """An error in one line: what, and where in their code."""
    said = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {said[0][:500]}" if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _ours(frame)] or list(frames)
    if not theirs:
        return what
    # The last frame of theirs, not of a library that they called: that is where they can change something.
    frame = next((one for one in reversed(theirs) if "site-packages" not in one.filename), theirs[-1])
    return f"{what} (in {frame.name}, {Path(frame.filename).name}:{frame.lineno})"


def theirs(error: BaseException) -> str:
    """The traceback of an error without the frames of this house, as Python prints it."""
    captured = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = captured
    while part is not None:
        kept = [frame for frame in part.stack if not _ours(frame)]
        part.stack = traceback.StackSummary.from_list(
            kept if kept or isinstance(error, SyntaxError) else list(part.stack)
        )
        part = part.__cause__ or part.__context__
    text = "".join(captured.format()).rstrip()
    return text if len(text) <= LONGEST else f"...\n{text[-LONGEST:]}"


def _ours(frame: traceback.FrameSummary) -> bool:
    built_in = frame.filename.startswith(TASKS) and frame.filename != f"{TASKS}own.py"
    return frame.filename.startswith(OURS) and not built_in
