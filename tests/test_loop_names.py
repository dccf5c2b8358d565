"""Loops of one name, and jobs of many trials."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.external import submit, take, tell
from tests.serving import served
from tests.test_loop_beginnings import JOB as SHARED
from tests.test_loop_beginnings import SAME
from tests.test_loop_stages import JOB, train


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


@pytest.mark.parametrize(
    "other", [{"checkpoints": "none"}, {"checkpoints": "own", "host": "two"}, {"checkpoints": "shared", "host": "two"}]
)
def test_two_loops_of_one_name_keep_each_what_they_have_kept(door: httpx.Client, other: dict[str, Any]) -> None:
    job, mine = submit(door, **JOB), {"checkpoints": "own", "host": "one"}
    held = take(door, job, **mine)
    theirs = take(door, job, **other)  # which has not said a name either
    assert train(door, job, held, until=4) == "waiting"
    assert tell(door, job, theirs, "finish", state="waiting").status_code == 200
    again = take(door, job, **mine, worker="third")
    assert (again["trial"]["number"], again["checkpoint"]) == (held["trial"]["number"], f"{held['trial']['number']}@4")


def test_a_trial_is_taken_with_as_many_statements_however_many_checkpoints_there_are(sqlite_url: str) -> None:
    with served(sqlite_url) as door:
        few, many = statements(door, 2), statements(door, 16)
    assert many <= few + 3, "each checkpoint is not asked for by itself"


def statements(door: httpx.Client, trials: int) -> int:
    """How many a new trial takes where so many have checkpoints."""
    asked = [{"optimizer": "adamw", "learning_rate": 1e-5 * 1.5**one, "schedule": "constant"} for one in range(20)]
    job = submit(door, **SHARED | {"budget": {"full_runs": 60}, "try": asked})
    for one in [take(door, job, **SAME, worker=f"w{one}") for one in range(trials)]:
        assert train(door, job, one, until=4) == "waiting"
    for one in range(trials):
        assert take(door, job, **SAME, worker=f"w{one}")["start"] == 4
    found = []

    def counted(*said: object) -> None:
        found.append(said)

    event.listen(Engine, "before_cursor_execute", counted)
    assert take(door, job, **SAME, worker="new")["start"] == 0
    event.remove(Engine, "before_cursor_execute", counted)
    return len(found)
