"""A quota of full runs a day that is reached says when there is room, and there is then."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from lrtune.store import Database
from lrtune.store.tables import AuditRow
from tests.people import LESS, job, someone
from tests.serving import served


def test_who_has_asked_for_too_many_full_runs_hears_when_there_is_room(database_url: str, tmp_path: Path) -> None:
    of_four = {"budget": {"full_runs": 4}, "confirm": {"top": 0}}
    now = datetime.now(UTC)
    with served(database_url, data_dir=tmp_path) as service, someone(service, "ada") as ada:
        service.put("/v1/people/ada", json={"quotas": {"full_runs_a_day": 10}})
        asked = {job(ada, **of_four): now - timedelta(hours=20), job(ada, **of_four): now - timedelta(hours=3)}
        database = Database(database_url)
        with database.write() as tx:
            for subject, at in asked.items():
                tx.execute(update(AuditRow).where(AuditRow.subject == subject).values(at=at))
        refused = ada.post("/v1/jobs", json=LESS | of_four)
        assert refused.status_code == 429
        said, words = refused.json()["detail"].split(". There is room for it from ")
        assert said.endswith("ada may ask for 10 full runs within 24 hours; this asks for 4, after 8 before")
        room = datetime.strptime(words, "%Y-%m-%d %H:%M:%S UTC on").replace(tzinfo=UTC)
        assert abs(room - now - timedelta(hours=4)) < timedelta(seconds=2), "once the older job is a day old"
        assert abs(int(refused.headers["Retry-After"]) - (room - datetime.now(UTC)).total_seconds()) < 60
        both = ada.post("/v1/jobs", json=LESS | {"budget": {"full_runs": 7}, "confirm": {"top": 0}})
        assert 20 * 3600 < int(both.headers["Retry-After"]) < 22 * 3600, "it has to wait for both"
        never = ada.post("/v1/jobs", json=LESS | {"budget": {"full_runs": 11}, "confirm": {"top": 0}})
        assert never.json()["detail"].endswith("more than a day ever has room for")
        with database.write() as tx:
            tx.execute(
                update(AuditRow).where(AuditRow.subject == next(iter(asked))).values(at=now - timedelta(hours=25))
            )
        database.dispose()
        assert ada.post("/v1/jobs", json=LESS | of_four).status_code == 201
