"""How the options of `lrtune submit` become a job. An option for a new field is one parameter there, one line there."""

import json
from itertools import islice
from typing import Annotated, Any

import typer

from lrtune import errors, job_names
from lrtune.cli.lazy import client as clients
from lrtune.job_file import job_file
from lrtune.printable import printable


def _newest(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest jobs for the shell to complete; none where no server answers."""
    try:
        with clients.Client() as client:
            found = [
                (job.id, f"{job.state} {job.spec.name or job.spec.task.name}") for job in islice(client.list(), 20)
            ]
    except errors.LrtuneError:
        return []
    return [(job_id, printable(words)) for job_id, words in found if job_id.startswith(incomplete)]


def job_id(given: str) -> str:
    """The id of a job that is named by it or by its name. Raises UnknownJob, Invalid."""
    with clients.Client() as client:
        return job_names.job_id(client, given)


def _one(context: typer.Context, given: str) -> str:
    return given if context.resilient_parsing else job_id(given)


JobId = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="The job's id, or its name where it is yours.", autocompletion=_newest, callback=_one
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]


def job(source: str, params: dict[str, Any]) -> dict[str, Any]:
    """The job that the argument names, on stdin, in a file or just a task; with these parameters of the task."""
    if source != "-" and not source.endswith(".json"):
        return {"task": {"name": source, "params": params}}
    found = job_file(source)
    task = {"name": found["task"]} if isinstance(found.get("task"), str) else found.get("task")
    if params and isinstance(task, dict):
        found["task"] = task
        add(task, "params", params)
    return found


def add(target: dict[str, Any], field: str, values: dict[str, Any]) -> None:
    """Add to an object in a field; what is there and no object is the server's to refuse."""
    there = target.get(field)
    if values and (there is None or isinstance(there, dict)):
        target[field] = {**(there or {}), **values}


def put(target: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Set the fields that were given."""
    target |= {field: value for field, value in values.items() if value is not None}
    return target


def part(given: str) -> dict[str, Any]:
    """Some of a configuration, as a JSON object or as KEY=VALUE,KEY=VALUE."""
    if not given.lstrip().startswith("{"):
        return pairs(given.split(","))
    try:
        found: dict[str, Any] = json.loads(given)
    except ValueError as error:
        raise errors.Invalid(f"--try: found {given!r} ({error}); accepted is a JSON object, or KEY=VALUE,...") from None
    return found


def pairs(given: list[str] | None, *, plain: bool = False) -> dict[str, Any]:
    """KEY=VALUE options; a value that is JSON is taken as such, anything else (or all, when `plain`) as text."""
    found: dict[str, Any] = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise errors.Invalid(f"found {one!r}; accepted is KEY=VALUE")
        try:
            found[key] = value if plain else json.loads(value)
        except ValueError:
            found[key] = value
    return found
