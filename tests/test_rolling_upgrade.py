"""An upgrade while the service runs: old and new servers and workers on one database, and jobs that see both.

The old ones are the code of the last release or, before there is one, of the last commit with another schema, as real
processes from a copy of its own. Where the history is missing (a shallow clone) there is no older code to run.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import pytest
from sqlalchemy import text

import migrations
from benchmarks.chaos.invariants import OFFENCES
from lrtune.store import Database, schema, trials
from tests import processes
from tests.external import submit, take, tell
from tests.serving import KEY

ROOT = Path(__file__).parents[1]
KNOWS = "lrtune/store/schema.py"  # which schema the code is written for
PATIENCE = 240.0  # seconds
JOB = {
    "task": {"name": "digits", "params": {"hidden": [8]}},
    "horizon": {"steps": 2000},
    "search": {"sampler": "random", "pruner": "forecast"},
    "budget": {"trials": 4},
    "confirm": {"top": 0},
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout


def revision(commit: str) -> str | None:
    found = re.search(r'^REVISION = "(\d+)"', git("show", f"{commit}:{KNOWS}"), re.MULTILINE)
    return found[1] if found else None


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of before, in a folder of its own."""
    changes = git("log", "--format=%H", "--", KNOWS).split()  # the newest first, and what was there before each
    commits = [*git("tag", "--sort=-creatordate", "--merged").split()[:1], *(f"{change}^" for change in changes)]
    before = next((one for one in commits if revision(one) not in (None, schema.REVISION)), None)
    if before is None:
        pytest.skip("no older release, nor any commit with another schema: this clone has no history")
    folder = tmp_path_factory.mktemp("old")
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", before], capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", str(folder)], input=packed, check=True)
    return folder


class Upgrade:
    """The processes of both versions, on one database."""

    def __init__(self, old: Path, url: str, folder: Path) -> None:
        self.old, self.url, self.folder = old, url, folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._doors: list[httpx.Client] = []

    def environment(self, code: Path) -> dict[str, str]:
        ours = {
            "LRTUNE_DATABASE_URL": self.url,
            "LRTUNE_API_KEY": KEY,
            "LRTUNE_LEASE_SECONDS": "600",
            "LRTUNE_DEVICE": "cpu",
        }
        ours |= {"LRTUNE_STATE_DIR": str(self.folder / "states"), "LRTUNE_DATA_DIR": str(self.folder / "data")}
        return ours | {"LRTUNE_CREDENTIALS": str(self.folder / "credentials"), "PYTHONPATH": str(code)}

    def start(self, code: Path, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / name).open("wb") as log:
            given = {"cwd": code, "env": os.environ | self.environment(code), "stdout": log, "stderr": log}
            self._running.append(subprocess.Popen([sys.executable, *command], **given))  # type: ignore[call-overload]
        return self._running[-1]

    def serve(self, code: Path, name: str) -> httpx.Client:
        with create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        self.start(code, name, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port))
        headers = {"Authorization": f"Bearer {KEY}"}
        door = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)
        self._doors.append(door)
        self.until(lambda: answers(door), f"{name} answers")
        return door

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            said = "\n".join(
                f"== {one.name}\n{one.read_text()[-1500:]}" for one in self.folder.iterdir() if one.is_file()
            )
            assert time.monotonic() < end, f"waited for: {what}\n{said}"
            time.sleep(0.2)

    def close(self) -> None:
        for door in self._doors:
            door.close()
        for one in self._running:
            one.kill()
            one.wait()


def answers(door: httpx.Client) -> bool:
    try:
        return door.get("/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def upgrade(old: Path, database_url: str, tmp_path: Path) -> Iterator[Upgrade]:
    migrations.downgrade(database_url, "base")
    (tmp_path / "upgrade").mkdir()
    made = Upgrade(old, database_url, tmp_path / "upgrade")
    migrate = "import migrations, sys; migrations.upgrade(sys.argv[1])"  # as its `lrtune migrate` does
    assert made.start(old, "migrate", "-c", migrate, database_url).wait(PATIENCE) == 0, made.log("migrate")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_service_is_upgraded_while_it_runs_and_no_job_notices(upgrade: Upgrade) -> None:
    """The server first; an old worker ends what it holds, then says that it is the older one, and waits."""
    before = upgrade.serve(upgrade.old, "old server")
    worker = upgrade.start(upgrade.old, "old worker", "-m", "worker")
    job = str(before.post("/v1/jobs", json=JOB).json()["id"])
    loops = submit(before)
    held = take(before, loops, lease_seconds=3600)
    for step in range(2, 20, 2):
        report(before, loops, held, step, 1.0)
    upgrade.until(lambda: before.get(f"/v1/jobs/{job}").json()["state"] == "running", "the old worker trains")

    migrations.upgrade(upgrade.url)  # as `lrtune migrate` does; on SQLite the new server would, as it starts
    after = upgrade.serve(ROOT, "new server")
    newer = processes.start("worker", environment=upgrade.environment(ROOT), log=upgrade.folder / "new worker")
    assert after.get("/readyz").status_code == 200
    assert (before.get("/readyz").status_code, before.get("/healthz").status_code) == (503, 200)
    upgrade.until(lambda: "is ready" in upgrade.log("new worker"), "the new worker is there")
    assert before.post(f"/v1/jobs/{job}/extend", json={"budget": {"trials": 10}}).is_success
    for door in (before, after):  # who has not been sent to the new server yet is served as before
        assert door.get(f"/v1/jobs/{job}").json()["spec"]["budget"]["trials"] == 10
        assert report(door, loops, held, 20 if door is before else 22, 0.5)["decision"] == "continue"
    for step in range(24, 42, 2):
        report(after, loops, held, step, 0.25)
    assert tell(before, loops, held, "finish").is_success
    held = take(before, loops, lease_seconds=3600)
    for step in range(2, 42, 2):
        report(after, loops, held, step, 0.75)
    assert tell(after, loops, held, "finish").is_success
    assert take_answer(after, loops) in (204, 409), "it is over"

    upgrade.until(lambda: before.get(f"/v1/jobs/{job}").json()["finished_at"] is not None, "the job ends")
    upgrade.until(lambda: f"newer than the {revision_of(upgrade)}" in upgrade.log("old worker"), "the old worker waits")
    database = Database(upgrade.url)
    with database.read() as tx:
        assert {name: rows for name, sql in OFFENCES.items() if (rows := tx.execute(text(sql)).all())} == {}
        stages = [(stage.worker, stage.outcome) for trial in trials.history(tx, job) for stage in trial.stages]
    database.dispose()
    assert {outcome for _, outcome in stages} <= {"finished", "paused"}, "nothing was lost, nothing given back"
    assert len({who for who, _ in stages}) == 2, "both versions have trained it"
    worker.send_signal(signal.SIGTERM)
    newer.terminate()
    assert worker.wait(PATIENCE) == 0, upgrade.log("old worker")
    newer.join(PATIENCE)
    assert newer.exitcode == 0


def report(door: httpx.Client, job: str, held: dict[str, Any], step: int, value: float) -> dict[str, Any]:
    """A report, on a machine that may be very busy."""
    reports = [{"step": step, "metrics": {"val_loss": value}}]
    answer = tell(door, job, held, "reports", reports=reports, lease_seconds=3600)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def revision_of(upgrade: Upgrade) -> str:
    found = re.search(r'^REVISION = "(\d+)"', (upgrade.old / KNOWS).read_text(), re.MULTILINE)
    assert found
    return found[1]


def take_answer(door: httpx.Client, job: str) -> int:
    return door.post(f"/v1/jobs/{job}/trials", json={}).status_code
