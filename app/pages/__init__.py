"""The pages at `/`: for people what the API is for programs. Templates: `app/templates/`; scripts: `app/static/`.

Every page is rendered here and works by itself; scripts add the charts, the live refreshing and the previews. A new
page is a module here, a template there, and a name in the list below.
"""

from fastapi import APIRouter, Depends
from fastapi.staticfiles import StaticFiles

from app.pages import datasets, docs, job, jobs, keys, live, sign_in, submit, tasks, workers
from app.pages.deps import signed_in
from app.rendering import STATIC

router = APIRouter()
router.include_router(sign_in.router, include_in_schema=False)
router.include_router(docs.router, include_in_schema=False)
for _part in (jobs, submit, job, live, datasets, workers, tasks, keys):
    router.include_router(_part.router, include_in_schema=False, dependencies=[Depends(signed_in)])
router.mount("/static/docs", StaticFiles(directory=docs.ASSETS), name="docs")
router.mount("/static", StaticFiles(directory=STATIC), name="static")
