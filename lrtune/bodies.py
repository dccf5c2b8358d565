"""What the client sends of a job, whichever way it was given."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from lrtune.job_file import job_file
from lrtune.wire.job import JobSpec

AnyJob = JobSpec | Mapping[str, Any] | str


def body(job: AnyJob) -> Any:
    """A job as it is sent; text is a task's name or a `.json` file, as on the command line."""
    if not isinstance(job, str):
        return plain(job)
    return job_file(job) if job.endswith(".json") else {"task": job}


def plain(value: BaseModel | Mapping[str, Any]) -> Any:
    """A value as it is sent: what of it was said."""
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
