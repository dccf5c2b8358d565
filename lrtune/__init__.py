"""lrtune: find the learning rate, schedule and decay a training job should use, and prove it.

The package is the library and the client; the server (`app/`) and the workers (`worker/`) stand beside it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrtune.script import RealRun, ScriptTrial

__version__ = "0.1.0"


def trial(steps: int | None = None) -> "ScriptTrial | RealRun":
    """The trial of this script: see `lrtune/script.py`, which is imported when it is asked for."""
    from lrtune import script

    return script.trial(steps)
