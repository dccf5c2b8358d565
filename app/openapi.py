"""The API's description of itself, made as tight as JSON Schema can be: what it says is what is checked."""

from typing import Any

from fastapi import FastAPI

from app.problems import Problem
from app.scopes import NEEDED
from lrtune.wire.tasks import BUILT_IN, EXTERNAL_TASK

DESCRIPTION = """\
Finds the learning rate, the schedule and the decay parameters that a training job should use, and proves the answer.

Submit a job with `POST /v1/jobs`; the smallest is `{"task": "digits"}`. Follow it with `GET /v1/jobs/{job_id}/events`,
and read the answer with `GET /v1/jobs/{job_id}/best`.

Every call under `/v1` needs the header `Authorization: Bearer <key>`; the server wrote the first key to
`.lrtune/credentials` at its first start, and an admin makes more. Each call needs a scope, and a key has some: `read`,
`submit`, `work` (for training loops of one's own), or `admin`, which includes the others. Every error is
`application/problem+json` and names the field, what was found and what would be accepted.
"""
KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key; the first is in the server's `.lrtune/credentials`, or is `LRTUNE_API_KEY`.",
}
TAGS = [
    {"name": "jobs", "description": "One request to tune a task: what to search, and what it may cost."},
    {"name": "trials", "description": "One configuration trained with one seed over one horizon."},
    {"name": "external", "description": "Trials for a training loop of your own: the service only decides."},
    {"name": "best", "description": "The answer, and the answer as something to run."},
    {"name": "pictures", "description": "What a job's pictures are drawn from."},
    {"name": "events", "description": "A job's log, paged or followed."},
    {"name": "datasets", "description": "Data of your own, uploaded once and named by jobs."},
    {"name": "catalogue", "description": "What can be tuned and searched here, and who is working."},
    {"name": "people", "description": "Keys, what each person may use, and who changed what. For admins."},
    {"name": "operations", "description": "For those who run the service."},
]


def install(app: FastAPI) -> None:
    """Make the application describe itself with this."""
    plain = app.openapi
    app.openapi_tags = TAGS

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = plain()
            _tighten(whole["components"]["schemas"])
            whole["components"]["securitySchemes"] = {"key": KEY}
            for (method, path), scope in NEEDED.items():
                call = whole["paths"][path][method.lower()]
                call["x-scope"], call["security"] = scope, [{"key": []}]
                call["description"] += f"\n\nNeeds the scope `{scope}`."
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def _tighten(schemas: dict[str, Any]) -> None:
    """Name the tasks there are, each with its own parameters, and add what every error looks like."""
    schemas |= _with_parts(Problem.model_json_schema(ref_template="#/components/schemas/{model}"), "Problem")
    options = []
    known = {**BUILT_IN, EXTERNAL_TASK.name: EXTERNAL_TASK}
    for name, task in known.items():
        params = task.params.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= _with_parts(params, task.params.__name__)
        needed = ["name", "params"] if params.get("required") else ["name"]
        properties = {"name": {"const": name}, "params": {"$ref": f"#/components/schemas/{task.params.__name__}"}}
        options.append(
            {
                "type": "object",
                "properties": properties,
                "required": needed,
                "additionalProperties": False,
                "title": name,
            }
        )
    bare = [name for name, task in known.items() if not task.params.model_json_schema().get("required")]
    task_spec = schemas["JobSpec"]["properties"]
    task_spec["task"] = {
        "title": "Task",
        "description": "The training problem to tune; a bare name where its parameters all have defaults.",
        "anyOf": [{"type": "string", "enum": bare}, {"oneOf": options}, *_own()],
    }


def _own() -> list[dict[str, Any]]:
    """A task that the workers brought: `GET /v1/tasks` says which there are, with their parameters."""
    name = {"type": "string", "minLength": 1, "maxLength": 200, "not": {"enum": [*BUILT_IN, EXTERNAL_TASK.name]}}
    properties = {"name": name, "params": {"type": "object"}, "command": {"type": "boolean"}}
    whole = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
    return [name, {**whole, "title": "a task of your own"}]


def _with_parts(schema: dict[str, Any], name: str) -> dict[str, Any]:
    parts = schema.pop("$defs", {})
    return {name: schema, **parts}
