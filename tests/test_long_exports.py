"""Exports of runs with very many steps: sent as they are made, and no transaction waits for them."""

import gc
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lrtune.export import plain
from tests.serving import KEY, finished, served


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_long_export_comes_while_it_is_made_and_ends_with_the_client(
    sqlite_url: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: deque[int] = deque()
    ended = threading.Event()
    before = plain._pieces

    def watched(found: Any) -> Iterator[Any]:
        try:
            for start, rates in before(found):
                made.append(start)
                yield start, rates
        finally:
            ended.set()

    monkeypatch.setattr(plain, "_pieces", watched)
    with served(sqlite_url) as service:
        long = finished(service, sqlite_url, steps=100_000_000)
        path = f"/v1/jobs/{long}/best/export?format={format}"
        with service.stream("GET", path) as answer:
            assert answer.status_code == 200
            read = 0
            for piece in answer.iter_raw():
                read += len(piece)
                if read > 2_000_000:
                    break
        while not ended.wait(0.05):  # the test's own time limit ends this where somebody still makes the rest
            gc.collect()
        assert max(made) < 10_000_000


def test_open_downloads_hold_no_transaction(sqlite_url: str) -> None:
    with served(sqlite_url) as service, ExitStack() as downloads:
        long = finished(service, sqlite_url, steps=100_000_000)
        for _ in range(15):  # more than read at once
            path = f"/v1/jobs/{long}/best/export?format=csv"
            answer = downloads.enter_context(service.stream("GET", path))
            next(answer.iter_raw())
        assert service.get(f"/v1/jobs/{long}", timeout=20).status_code == 200
        assert service.post("/v1/jobs", json={"task": "digits"}, timeout=20).status_code == 201


def test_the_page_shows_the_beginning_of_a_long_file(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        long = finished(service, sqlite_url, steps=100_000_000)
        service.post("/sign-in", data={"key": KEY})
        for format in ("csv", "json", "pytorch"):
            text = service.get(f"/jobs/{long}/export?format={format}").text
            assert ("The rest is in the file." in text) == (format != "pytorch")
            assert len(text) < 40_000
