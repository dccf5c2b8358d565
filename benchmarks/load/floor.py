"""The server with a route of reports that writes nothing and reads nothing: what HTTP alone costs of a report.

Key, middleware, the body's check and the answer are those of the service, so no report can cost less than this does.
"""

from fastapi import FastAPI

from app import main, reporting
from app.turns import Turns
from lrtune.wire.external import Batch, Verdict
from lrtune.wire.results import TrialState


async def _unwritten(turns: Turns, job_id: str, number: int, batch: Batch) -> Verdict:  # noqa: ARG001
    return Verdict(decision="continue", state=TrialState.RUNNING, step=0)


def create_app() -> FastAPI:
    """The application."""
    reporting.take = _unwritten
    return main.create_app()
