"""Jobs on their way to and from other tools: `studies.py` for Optuna, `boards.py` for TensorBoard and MLflow.

Runs in a CSV file come in by `runs.py`.

These libraries are no part of the client: each is imported when it is asked for, and a missing one is named in
words. The commands are in `lrtune/cli/moving.py`. To add a tool, write one more file and an option there.
"""

from importlib import import_module
from typing import Any

from lrtune.errors import Invalid


def needed(module: str, *, package: str) -> Any:
    """A module of an optional library. Raises Invalid that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Invalid(f"this needs {package}: `pip install {package}` ({error})") from None
