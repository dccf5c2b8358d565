"""What a server thinks about is thought in a process beside it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app import thinking, turns
from app.thinking import think
from lrtune.errors import Unavailable, UnknownJob
from lrtune.store import Database, jobs
from tests.external import report, submit, take
from tests.serving import served


def place(database: Database, url: str) -> int:
    """Where this is thought, in a test."""
    assert database.url == url
    return os.getpid()


def signalled(database: Database, group: int, end: int) -> int:
    """Where this is thought while a signal goes to a whole group and to this very process."""
    assert database.url
    os.killpg(group, end)
    os.kill(os.getpid(), end)
    return os.getpid()


def hung(database: Database) -> None:
    """Something that never comes to an end."""
    assert database.url
    threading.Event().wait()


def missing(database: Database) -> None:
    """A job that nobody has submitted."""
    with database.read() as tx:
        jobs.outline(tx, "none")


def broken(database: Database) -> None:
    """A mistake of ours."""
    raise ZeroDivisionError(database.url)


def refused(database: Database) -> None:
    """Something that a call itself could not reach."""
    raise ConnectionRefusedError(database.url)


def test_a_server_thinks_in_a_process_beside_it_one_for_all_that_it_thinks_of(database: Database) -> None:
    found = {think(database, place, database.url) for _ in range(3)}
    assert len(found) == 1
    assert psutil.Process(found.pop()).ppid() == os.getpid()


def test_what_goes_wrong_there_is_raised_here_and_says_where_it_was(database: Database) -> None:
    with pytest.raises(UnknownJob):
        think(database, missing)
    with pytest.raises(ZeroDivisionError, match="lrtune") as caught:
        think(database, broken)
    assert "in broken" in "".join(caught.value.__notes__)
    place_before = think(database, place, database.url)
    with pytest.raises(ConnectionRefusedError):
        think(database, refused)
    assert think(database, place, database.url) == place_before, "others think on"


@pytest.mark.parametrize("folder", ["deep", "tidied"])
def test_the_process_is_asked_whatever_becomes_of_the_temporary_directory(
    sqlite_url: str, tmp_path: Path, folder: str
) -> None:
    temporary = tmp_path / (folder * 30 if folder == "deep" else folder)
    temporary.mkdir()
    script = f"""
        import shutil, threading
        from app.thinking import think
        from lrtune.store import Database
        from tests.test_thinking import place
        ask = lambda: print(think(Database({sqlite_url!r}), place, {sqlite_url!r}), flush=True)
        ask()
        shutil.rmtree({str(temporary)!r})
        threading.Thread(target=ask).start()
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    here, env = Path(__file__).parents[1], os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(words, cwd=here, env=env, capture_output=True, text=True, check=True, timeout=60)
    first, second = done.stdout.split()
    assert first == second, done.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_a_group_ends_no_thought_however_the_server_was_started(
    sqlite_url: str, tmp_path: Path, end: signal.Signals
) -> None:
    """From a script without a guard, in a process that may have no children of multiprocessing's."""
    script = tmp_path / "service.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, os, signal
            from app.thinking import think
            from lrtune.store import Database
            from tests.test_thinking import signalled

            def serve():
                signal.signal({int(end)}, lambda *_: None)
                found = think(Database({sqlite_url!r}), signalled, os.getpgrp(), {int(end)})
                print("thought" if found != os.getpid() else "here")

            child = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
            signal.signal({int(end)}, signal.SIG_IGN)
            child.start()
            child.join()
            """
        )
    )
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        start_new_session=True,
    )
    assert done.stdout == "thought\n", done.stderr


def test_where_the_process_cannot_be_started_the_server_is_unavailable(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, does in {"mute": "exit 1", "hung": "exec sleep 600"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for name, seconds in {"mute": 600.0, "none": 600.0, "hung": 0.1}.items():
        monkeypatch.setattr(sys, "executable", str(tmp_path / name))
        with pytest.raises(Unavailable, match="cannot be started"):
            thinking.Beside(seconds).think(database, place, database.url)


def test_who_waits_for_a_process_that_cannot_be_started_does_not_try_it_again_one_after_the_other(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tried, callers = tmp_path / "hung", tmp_path / "tried", 6
    script.write_text(f"#!/bin/sh\necho >> {tried}\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    beside, together = thinking.Beside(3.0), threading.Barrier(callers)

    def ask() -> str:
        together.wait()
        with pytest.raises(Unavailable) as caught:
            beside.think(database, place, database.url)
        return str(caught.value)

    with ThreadPoolExecutor(callers) as pool:
        said = [one.result() for one in [pool.submit(ask) for _ in range(callers)]]
    assert all("cannot be started" in one for one in said)
    assert len(tried.read_text().splitlines()) < callers


def test_a_process_that_hangs_is_ended_for_whoever_waits_and_another_begins(database: Database) -> None:
    beside = thinking.Beside(seconds=600.0)
    first = beside.think(database, place, database.url)
    beside.seconds = 0.1
    with pytest.raises(Unavailable, match="did not answer in time"):
        beside.think(database, hung)
    assert not psutil.pid_exists(first)
    beside.seconds = 600.0
    assert beside.think(database, place, database.url) != first
    beside.end()


def test_a_report_whose_verdict_cannot_be_had_is_written_and_its_loop_goes_on(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable

    with served(sqlite_url) as door:
        pruner = {"name": "threshold", "upper": 1.0, "n_warmup_reports": 0}
        job = submit(door, search={"sampler": "random", "pruner": pruner})
        take(door, job)  # the baseline, which no pruner stops
        held = take(door, job)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(thinking, "think", away)
            assert report(door, job, held, 2, 9.0)["decision"] == "continue"
        assert report(door, job, held, 4, 9.0)["decision"] == "stop"
        assert len(door.get(f"/v1/jobs/{job}/trials/{held['trial']['number']}").json()["reports"]) == 2


def test_a_search_goes_on_when_the_process_it_thinks_in_is_killed(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with served(sqlite_url) as door:
        job = submit(door, search={"sampler": "random"}, budget={"trials": 4})
        first = take(door, job)["trial"]["number"]
        killed = think(database, place, sqlite_url)
        os.kill(killed, signal.SIGKILL)
        assert take(door, job)["trial"]["number"] == first + 1
        assert think(database, place, sqlite_url) != killed


def test_nobody_else_waits_while_more_jobs_are_decided_for_than_a_server_has_threads(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Semaphore(0), threading.Event()

    def slowly(database: Database, call: Callable[..., object], *args: object, **named: object) -> object:
        begun.release()
        assert over.wait(60)
        return call(database, *args, **named)

    monkeypatch.setattr(thinking, "think", slowly)
    with served(sqlite_url) as door, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(take, door, submit(door)) for _ in range(50)]
        try:
            assert all(begun.acquire(timeout=60) for _ in range(turns.THINKERS))
            for path in ("/readyz", "/v1/jobs", "/v1/jobs"):
                assert door.get(path, timeout=30).status_code == 200
        finally:
            over.set()
        assert {one.result()["trial"]["number"] for one in asked} == {0}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_with_its_server_however_that_ends(sqlite_url: str, end: signal.Signals) -> None:
    script = f"""
        import sys
        from app.thinking import think
        from lrtune.store import Database
        from tests.test_thinking import place
        print(think(Database({sqlite_url!r}), place, {sqlite_url!r}), flush=True)
        sys.stdin.read()
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(
        words, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        beside = psutil.Process(int(server.stdout.readline()))
        server.send_signal(end)
    assert beside.wait(60) is None or not beside.is_running()
