"""The server: `lrtune serve`, or any ASGI server on `app.main:create_app`.

Puts the parts together; a new noun is one more router here.
"""

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import migrations
from app import connections, openapi, pages, problems, quotas, receiving, sessions, thinking, traces
from app.addresses import Prefix
from app.auth import server_key
from app.expiring import expiring
from app.heads import Head
from app.keys import Keys
from app.limits import BodyLimit
from app.metrics import Count, Requests
from app.openid import Provider
from app.retention import forgetting
from app.routes import (
    audit,
    charts,
    datasets,
    events,
    external,
    health,
    imports,
    jobs,
    keys,
    people,
    schedules,
    tasks,
    trials,
)
from app.security_headers import SecurityHeaders
from app.settings import Settings, to_serve
from app.tracing import RequestIds
from app.tries import Tries
from app.turns import Turns
from app.unpacking import Unpack
from app.watching import Watch
from app.webhooks import telling
from lrtune import __version__, logs
from lrtune.store import Database, schema

UPLOADS = (datasets.PATH, "/datasets")  # of the API, and of the page
AT_ONCE = 10  # transactions of a kind; SQLite has one writer
THINKING = 2  # requests that fit a model, for a second or so
DESCRIBED = 2  # uploads that are described at once: each takes a core
YOUNG = 20_000  # objects that may come up before the garbage collector looks at them
log = logging.getLogger("lrtune.server")

# What is called most comes first: a path is looked for in one after the other. Their routes, not the routers: a router
# that is included is looked through twice.
NOUNS = (external, jobs, datasets, trials, charts, events, imports, schedules, tasks, keys, people, audit, health)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Nothing is opened or written before it starts."""
    connections.install()
    app = FastAPI(
        title="lrtune",
        version=__version__,
        description=openapi.DESCRIPTION,
        lifespan=_lifespan,
        routes=[route for noun in (*NOUNS, pages) for route in noun.router.routes],
        separate_input_output_schemas=False,
        redirect_slashes=False,  # `problems.py` does, without a host, which a proxy may have another of
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # see `traces.py`
    )
    app.state.settings = settings or to_serve()
    logs.without_pulse()
    if app.state.settings.log == "json":
        logs.as_json()
    else:
        logs.with_person()
    app.state.requests, app.state.streams = Requests(), 0
    app.state.provider = Provider(app, app.state.settings) if app.state.settings.oidc_issuer else None
    app.add_middleware(BodyLimit, limit=app.state.settings.max_body_bytes, uploads=UPLOADS)
    app.add_middleware(Unpack, limit=app.state.settings.max_upload_bytes)
    app.add_middleware(BodyLimit, limit=app.state.settings.max_body_bytes, uploads=UPLOADS, packed=True)
    app.add_middleware(Head)
    app.add_middleware(Count, requests=app.state.requests)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Prefix)
    app.add_middleware(RequestIds)  # what is added last comes first
    problems.install(app)
    openapi.install(app)
    app.state.end_traces = traces.install(app) if app.state.settings.traces else None
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    url = settings.database_url
    lite = make_url(url).get_backend_name() == "sqlite"
    app.state.database = Database(url)  # makes SQLite's folder
    await asyncio.to_thread(_upgrade if lite else _look_at_the_schema, app.state.database)
    app.state.key = server_key(settings)
    app.state.ended = sessions.Ended(settings.credentials.with_name("signed-out"))
    await asyncio.to_thread(receiving.sweep, settings.data_dir)
    app.state.reading, app.state.writing = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(1 if lite else AT_ONCE)
    app.state.keys = Keys(app.state.database, app.state.key, app.state.reading, settings.oidc_admins or ())
    app.state.tries, app.state.requests_made = Tries(), quotas.Requests()
    app.state.turns = Turns(
        app.state.database, app.state.writing, seen=app.state.requests.decided, reading=app.state.reading
    )
    app.state.describing, app.state.thinking = asyncio.Semaphore(DESCRIBED), asyncio.Semaphore(THINKING)
    app.state.stopping = asyncio.Event()
    stopping = app.state.stopping
    app.state.watch = Watch(app.state.database, stopping)
    always = (app.state.database, app.state.writing)
    seeing_to = asyncio.gather(
        expiring(*always, stopping),
        telling(*always, settings, stopping),
        forgetting(*always, settings, stopping),
        app.state.keys.note(app.state.writing, stopping),
        app.state.watch.run(),
    )
    try:
        with _called_on_signals(app.state.stopping.set):
            _settle_in()
            yield
    finally:
        app.state.stopping.set()
        await seeing_to
        await asyncio.to_thread(thinking.leave, url)
        app.state.database.dispose()
        if app.state.end_traces:
            await asyncio.to_thread(app.state.end_traces)


def _settle_in() -> None:
    """Let a process that is the server's own answer at once, whatever else it does.

    The garbage collector looks no more at what there is by now, modules for the most part: half a million objects, a
    look at which stops everything for a tenth of a second. It looks at what is new less often than after each 700
    objects, Python's own number. And a thread that thinks gives way after half a millisecond where Python's own 5 would
    do: a report waits for its turn a dozen times, once after each statement.
    """
    if threading.current_thread() is threading.main_thread():
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG)
        sys.setswitchinterval(0.0005)


def _upgrade(database: Database) -> None:
    """Bring the schema up to date; a newer one is left alone, and `/readyz` says so, too."""
    with database.read() as tx:
        found = schema.found(tx)
    if found is not None and found > schema.REVISION:
        log.error("%s", schema.differs(found))
    else:
        migrations.upgrade(database.url)


def _look_at_the_schema(database: Database) -> None:
    """Say that the schema is not the one that this server needs, or why the database is away, as requests will."""
    try:
        with database.read() as tx:
            wrong = schema.differs(schema.found(tx))
    except (DBAPIError, PoolTimeout) as error:
        problems.log_away(error)
        return
    if wrong:
        log.error("%s", wrong)


@contextmanager
def _called_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM, then the handler that was there before.

    Uvicorn waits for open connections before it ends the lifespan, so without this an open event stream would hold it.
    """
    if threading.current_thread() is not threading.main_thread():  # in a test: signals come to the main thread
        yield
        return
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        if callable(before[number]):
            before[number](number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
