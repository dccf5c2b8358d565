"""The pages at `/`: for people what the API is for programs. Templates: `app/templates/`; scripts: `app/static/`.

Every page is rendered here and works by itself; scripts add the charts, the live refreshing and the previews. A new
page is a route here, a template there, and a line in `install`.
"""

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from app.pages import datasets, docs, job, jobs, keys, live, sign_in, submit, tasks, workers
from app.pages.deps import signed_in
from app.rendering import STATIC


def install(app: FastAPI) -> None:
    """Put the pages into an application."""
    app.include_router(sign_in.router, include_in_schema=False)
    app.include_router(docs.router, include_in_schema=False)
    for part in (jobs, submit, job, live, datasets, workers, tasks, keys):
        app.include_router(part.router, include_in_schema=False, dependencies=[Depends(signed_in)])
    app.mount("/static/docs", StaticFiles(directory=docs.ASSETS), name="docs")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
