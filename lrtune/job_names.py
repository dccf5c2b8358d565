"""Which job is meant, by its id or its name, where a person says it: to the command line, or in LRTUNE_JOB."""

import re
from typing import TYPE_CHECKING

from lrtune import errors

if TYPE_CHECKING:
    from lrtune.client import Client


def job_id(client: "Client", given: str) -> str:
    """A job's id, as it is; of a name the id of the caller's one job that has it. Raises UnknownJob, Invalid."""
    if re.fullmatch(r"job-[0-9a-f]{16}", given):
        return given
    found = [f"{one.id} ({one.state})" for one in client.named(given, owner=client.me().person)]
    if not found:
        none = f"there is no job of yours with the id or the name {given!r}"
        others = [f"{one.id} of {one.owner}" for one in client.named(given)]
        has = f"another's is named by its id: {_few(others)}" if others else "`lrtune list` shows them"
        raise errors.UnknownJob(f"{none}; {has}")
    if len(found) > 1:
        raise errors.Invalid(f"{len(found)} jobs of yours have the name {given!r}; accepted is an id: {_few(found)}")
    return found[0].split()[0]


def _few(found: list[str]) -> str:
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
