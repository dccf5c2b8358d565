"""What many ask of the server at the same moment is done once, and nobody hears what was there before it asked."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import update

from app.routes.jobs import as_polled
from app.turns import Turns
from lrtune.errors import UnknownJob, UnreadableJob
from lrtune.store import Database, jobs
from lrtune.store.tables import JobRow
from tests.external import report, submit, take
from tests.leasing import SPEC
from tests.serving import served


def at_once(turns: Turns, call: object, many: int) -> Sequence[object]:
    async def all_of_them() -> Sequence[object]:
        asked = (turns.read(("jobs",), call, number) for number in range(many))  # type: ignore[arg-type]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(all_of_them())


def test_what_many_ask_for_is_read_once_for_whoever_came_first_and_once_for_all_others(database: Database) -> None:
    seen: list[Sequence[int]] = []

    def found(_: Database, numbers: Sequence[int]) -> Sequence[int]:
        seen.append(numbers)
        return [10 * number for number in numbers]

    assert at_once(Turns(database, asyncio.Semaphore()), found, 30) == [10 * number for number in range(30)]
    assert seen == [[0], [*range(1, 30)]]


def test_what_cannot_be_read_is_said_to_each_who_asked(database: Database) -> None:
    def gone(_: Database, __: Sequence[int]) -> Sequence[int]:
        raise UnknownJob

    heard = at_once(Turns(database, asyncio.Semaphore()), gone, 9)
    assert [type(one) for one in heard] == 9 * [UnknownJob]


def test_who_polls_after_a_report_sees_it(database_url: str) -> None:
    with served(database_url) as door:
        job = submit(door, search={"pruner": "none"}, budget={"trials": 9})
        held = take(door, job)
        for step in (10, 20, 30):
            report(door, job, held, step, 0.5)
            spent = [door.get(f"/v1/jobs/{job}").json()["progress"]["full_runs"] for _ in range(3)]
            assert spent == 3 * [step / 40]


def test_a_job_that_cannot_be_read_is_its_own_affair(database: Database) -> None:
    with database.write() as tx:
        good, bad = (jobs.create(tx, SPEC)[0].id for _ in range(2))
        tx.execute(update(JobRow).where(JobRow.id == bad).values(spec={"of": "another version"}))
    found = as_polled(database, [good, bad, "no-such-job", good])
    assert [type(one) for one in found] == [tuple, UnreadableJob, UnknownJob, tuple]
    assert found[0] == found[3]
