"""A job as the client sends it, and one that was written to a file, as the command line reads it, too."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lrtune import errors
from lrtune.wire.job import JobSpec

AnyJob = JobSpec | Mapping[str, Any] | str


def job_file(source: str) -> dict[str, Any]:
    """The job in a `.json` file, or on stdin where `source` is "-". Raises Invalid."""
    try:
        found = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.Invalid(f"{source}: {error}") from None
    if not isinstance(found, dict):
        raise errors.Invalid(f'{source}: accepted is a JSON object such as {{"task": "digits"}}')
    return found


def body(job: AnyJob) -> Any:
    """A job as it is sent; text is a task's name or a `.json` file, as on the command line."""
    if not isinstance(job, str):
        return plain(job)
    return job_file(job) if job.endswith(".json") else {"task": job}


def plain(value: BaseModel | Mapping[str, Any]) -> Any:
    """A value as it is sent: what of it was said."""
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
