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


def test_who_extends_a_job_that_was_imported_asks_for_all_that_it_has_not_trained(
    database_url: str, tmp_path: Path
) -> None:
    """An import may say any budget: it asks nothing of the workers until it is extended."""
    lots = LESS | {"horizon": {"steps": 20}, "budget": {"full_runs": 1000}, "confirm": {"top": 0}}
    trial = {"configuration": {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "linear"}, "horizon": 20}
    done = [trial | {"state": "complete", "value": value, "step": 20} for value in (0.2, 0.1)]
    with served(database_url, data_dir=tmp_path) as service, someone(service, "ada") as ada:
        service.put("/v1/people/ada", json={"quotas": {"full_runs_a_day": 1010}})
        mine = ada.post("/v1/imports", json={"job": lots, "trials": done}).json()["id"]
        answer = ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 1013}})
        assert answer.status_code == 429
        assert "this asks for 1011, after 0 before" in answer.json()["detail"]
        assert ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 1010}}).status_code == 202
        assert ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 1012}}).status_code == 202
        assert ada.post(f"/v1/jobs/{mine}/extend", json={"budget": {"full_runs": 1013}}).status_code == 429
