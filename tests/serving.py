"""A real server in this process, for the tests of the door."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from app.main import create_app
from app.settings import Settings

KEY = "the-key-of-the-tests"


@contextmanager
def served(database_url: str, **settings: object) -> Iterator[httpx.Client]:
    """A client that has the key of a server on this database."""
    app = create_app(Settings(database_url=database_url, **({"api_key": KEY} | settings)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = "http://127.0.0.1:{1}".format(*listening.getsockname())
        limits = httpx.Limits(max_connections=100)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False, limits=limits) as client:
            yield client
        server.should_exit = True
        thread.join()
