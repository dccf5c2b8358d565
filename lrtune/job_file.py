"""A job that was written to a file, as the command line and the client read it."""

import json
import sys
from pathlib import Path
from typing import Any

from lrtune import errors


def job_file(source: str) -> dict[str, Any]:
    """The job in a `.json` file, or on stdin where `source` is "-". Raises Invalid."""
    try:
        found = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise errors.Invalid(f"{source}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise errors.Invalid(f"{source}: {error}") from None
    if not isinstance(found, dict):
        raise errors.Invalid(f'{source}: accepted is a JSON object such as {{"task": "digits"}}')
    return found
