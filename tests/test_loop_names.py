"""Loops of one name, and jobs of many trials."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lrtune.store import Database
from lrtune.wire.external import Hold
from tests.external import submit, take, tell
from tests.serving import served
from tests.test_loop_beginnings import JOB as SHARED
from tests.test_loop_beginnings import SAME
from tests.test_loop_stages import JOB, train
from tests.test_statements import counted, taken


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
        few, many = (waiting(door, trials) for trials in (2, 16))
    database = Database(sqlite_url)  # of no server, whose own rounds would be counted too
    counts = []
    for job in (few, many):
        with counted() as seen:
            assert taken(database, job, Hold.model_validate(SAME | {"worker": "new"})).start == 0
        counts.append(len(seen))
    assert counts[0] == counts[1], "each checkpoint is not asked for by itself"


def waiting(door: httpx.Client, trials: int) -> str:
    """A job where so many trials wait, each with a checkpoint."""
    asked = [{"optimizer": "adamw", "learning_rate": 1e-5 * 1.5**one, "schedule": "constant"} for one in range(20)]
    job = submit(door, **SHARED | {"budget": {"full_runs": 60}, "try": asked})
    for one in [take(door, job, **SAME, worker=f"w{one}") for one in range(trials)]:
        assert train(door, job, one, until=4) == "waiting"
    for one in range(trials):
        assert take(door, job, **SAME, worker=f"w{one}")["start"] == 4
    return job
