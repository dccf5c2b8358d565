"""Which scope each call needs. A route that is not here cannot be called: a test walks the API's description."""

from collections.abc import Mapping

from fastapi import Request

from lrtune.wire.people import Caller, Scope

JOB, TRIAL = "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/trials/{number}"
NEEDED: Mapping[tuple[str, str], Scope] = {
    ("GET", "/v1/jobs"): "read",
    ("GET", JOB): "read",
    ("GET", f"{JOB}/trials"): "read",
    ("GET", TRIAL): "read",
    ("GET", f"{TRIAL}/rates"): "read",
    ("GET", f"{JOB}/best"): "read",
    ("GET", f"{JOB}/best/export"): "read",
    ("GET", f"{JOB}/report"): "read",
    ("GET", f"{JOB}/curves"): "read",
    ("GET", f"{JOB}/landscape"): "read",
    ("GET", f"{JOB}/events"): "read",
    ("GET", "/v1/datasets"): "read",
    ("GET", "/v1/datasets/{dataset_id}"): "read",
    ("GET", "/v1/schedules"): "read",
    ("POST", "/v1/schedules/preview"): "read",
    ("GET", "/v1/tasks"): "read",
    ("GET", "/v1/workers"): "read",
    ("GET", "/v1/me"): "read",
    ("GET", "/metrics"): "read",
    ("POST", "/v1/jobs"): "submit",
    ("POST", f"{JOB}/cancel"): "submit",
    ("POST", f"{JOB}/stop"): "submit",
    ("POST", f"{JOB}/pause"): "submit",
    ("POST", f"{JOB}/resume"): "submit",
    ("POST", f"{JOB}/extend"): "submit",
    ("DELETE", JOB): "submit",
    ("POST", "/v1/datasets"): "submit",
    ("DELETE", "/v1/datasets/{dataset_id}"): "submit",
    ("POST", "/v1/imports"): "submit",
    ("POST", f"{JOB}/trials"): "work",
    ("POST", f"{TRIAL}/reports"): "work",
    ("POST", f"{TRIAL}/finish"): "work",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{key_id}"): "admin",
    ("GET", "/v1/people"): "admin",
    ("PUT", "/v1/people/{name}"): "admin",
    ("DELETE", "/v1/people/{name}"): "admin",
    ("GET", "/v1/audit"): "admin",
}


def of_call(request: Request) -> Scope:
    """The scope that a call of the API needs."""
    return NEEDED.get((request.method, request.scope["route"].path), "admin")


def of_page(request: Request) -> Scope:
    """The scope that a page needs: what only shows is read, and its forms submit."""
    path = request.scope["route"].path
    if path.startswith("/keys"):
        return "admin"
    return "read" if request.method in ("GET", "HEAD") or path == "/sign-out" else "submit"


def lacking(caller: Caller, scope: Scope) -> str:
    """What to say to somebody whose key lacks a scope."""
    has = ", ".join(sorted(caller.scopes))
    return f"this key lacks the scope `{scope}`; it has {has}. An admin can make one that has it: `lrtune keys create`"
