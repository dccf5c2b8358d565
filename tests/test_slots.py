"""Several workers of one command: started, started again where they die, drained; and how many `auto` has."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from lrtune.store import Database, jobs, workers
from lrtune.wire.job import AdmittedJob
from tests.commands import alive
from tests.leasing import SPEC
from worker import slots
from worker.settings import Settings
from worker.slots import Climb, Slots

ROOT = Path(__file__).parent.parent
SMALL = {"horizon": {"steps": 400}, "budget": {"full_runs": 3.0}, "confirm": {"top": 0}}


def soon(happened: Callable[[], bool]) -> None:
    """Wait until it has happened, whatever the machine is busy with."""
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def drained(drain: Event) -> None:
    drain.wait()


def refusing(drain: Event) -> None:
    sys.exit(2)


@pytest.fixture
def three() -> Iterator[Slots]:
    made = Slots(drained, 3)
    made.round()
    yield made
    made.close()


def test_one_that_dies_is_started_again_and_what_is_too_many_is_drained(
    three: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LASTING", -1.0)  # else it would wait for a second
    before = three.pids
    os.kill(before[1], signal.SIGKILL)
    soon(lambda: three.round() is None and before[1] not in three.pids)
    soon(lambda: three.round() is None and len(three.pids) == 3)
    assert {*before} - {*three.pids} == {before[1]}
    three.count = 1
    three.round()
    assert three.pids == [before[0]]
    soon(lambda: three.round() is None and len(three._slots) == 1)


def test_one_that_dies_at_once_is_waited_for_and_a_wrong_setting_ends_all(three: Slots) -> None:
    os.kill(three.pids[0], signal.SIGKILL)
    soon(lambda: three.round() is None and len(three.pids) == 2)
    assert three.round() is None
    assert len(three.pids) == 2, "not before a second has gone"
    wrong = Slots(refusing, 2)
    soon(lambda: wrong.round() == 2)
    wrong.close()


@pytest.mark.parametrize(
    ("paces", "counts"),
    [
        ([100, 190, 280, 285], [2, 3, 4, 3]),  # three gain much, the fourth gains too little
        ([100, 90], [2, 1]),
        ([100, 190, 600], [2, 3, 4]),
    ],
)
def test_there_is_one_worker_more_as_long_as_all_train_more_steps(paces: list[float], counts: list[int]) -> None:
    climb, found = Climb(), []
    for pace in paces:
        climb.on(pace, room=True)
        found.append(climb.now)
    assert found == counts


def test_where_there_is_no_room_nobody_is_added_until_other_jobs_come() -> None:
    climb = Climb()
    climb.on(100, room=False)
    climb.on(100, room=True)
    assert (climb.now, climb.settled) == (1, True)
    climb.again()
    climb.on(50, room=True)
    assert climb.now == 2


@pytest.mark.slow
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_two_workers_of_one_command_do_a_job_though_one_is_killed_and_neither_outlives_its_parent(
    ends: signal.Signals, sqlite_url: str
) -> None:
    given = {
        "LRTUNE_DATABASE_URL": sqlite_url,
        "LRTUNE_SLOTS": "2",
        "LRTUNE_DEVICE": "cpu",
        "LRTUNE_LEASE_SECONDS": "2",
    }
    database = Database(sqlite_url)

    def living() -> list[int]:
        with database.read() as tx:
            return [one.pid for one in workers.alive(tx) if alive(one.pid)]

    def over() -> bool:
        with database.read() as tx:
            return jobs.get(tx, job).state == "succeeded"

    with database.write() as tx:
        job = jobs.create(tx, AdmittedJob.model_validate(SPEC.model_dump() | SMALL))[0].id
    parent = subprocess.Popen([sys.executable, "-m", "worker"], env=os.environ | given, cwd=ROOT)
    try:
        soon(lambda: len(living()) == 2)
        killed = living()[0]
        os.kill(killed, signal.SIGKILL)
        soon(lambda: len(living()) == 2 and killed not in living())
        soon(over)
        mine = living()
        with database.read() as tx:
            steps, _ = workers.trained(tx, host=socket.gethostname(), pids=[*mine, killed])
            assert steps >= 400, "of three runs, some of which may share a beginning"
        parent.send_signal(ends)
        assert parent.wait(60) == (0 if ends == signal.SIGTERM else -signal.SIGKILL)
        soon(lambda: not any(map(alive, mine)))
    finally:
        parent.kill()
        parent.wait()
        database.dispose()


def test_all_is_a_worker_for_each_gpu_and_on_a_host_without_one_for_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slots.devices("all"), slots.devices("cuda:1")) == (["cpu"], ["cuda:1"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert slots.devices("all") == ["cuda:0", "cuda:1"]


@pytest.mark.slow
def test_each_device_has_a_worker_of_its_own_and_all_go_with_their_parent(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "devices", lambda name: ["cpu", "cpu:0"] if name == "all" else [name])
    monkeypatch.setenv("LRTUNE_DATABASE_URL", sqlite_url)
    database, stop = Database(sqlite_url), threading.Event()

    def living() -> set[str]:
        with database.read() as tx:
            return {one.device for one in workers.alive(tx)}

    parent = threading.Thread(target=slots.run, args=(Settings(device="all"), stop))
    parent.start()
    try:
        soon(lambda: living() == {"cpu", "cpu:0"})
    finally:
        stop.set()
        parent.join(60)
    assert not living()
    database.dispose()


@pytest.mark.parametrize("name", ["slots", "lanes"])
@pytest.mark.parametrize("value", ["0", "-3", "65", "2.5", "many", ""])
def test_so_many_is_auto_or_a_whole_number_and_else_refused_in_one_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LRTUNE_{name.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    found = [(one["loc"], one["msg"]) for one in refused.value.errors()]
    assert found == [((name,), "Input should be auto, or a whole number from 1 to 64")]
    for good, meant in (("auto", "auto"), ("3", 3)):
        monkeypatch.setenv(f"LRTUNE_{name.upper()}", good)
        assert getattr(Settings(), name) == meant
