"""The page at `/`: for people what the API is for programs. Templates: `app/templates/`; scripts: `app/static/`.

Every page is rendered here and works by itself; scripts add the charts, the live refreshing and the previews. A new
page is a route here, a template there, and a line in `install`.
"""

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from app.pages.door import signed_in
from app.pages.guard import Guard
from app.pages.look import STATIC


def install(app: FastAPI) -> None:
    """Put the pages into an application."""
    from app.pages import job, jobs, live, others, sign, submit  # they know `app.problems`, which knows this package

    app.add_middleware(Guard)
    app.include_router(sign.router, include_in_schema=False)
    for part in (jobs, submit, job, live, others):
        app.include_router(part.router, include_in_schema=False, dependencies=[Depends(signed_in)])
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
