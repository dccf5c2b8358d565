"""`lrtune keys`, `lrtune people` and `lrtune audit`, and whose a job is at the command line and in the client."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from lrtune.admin import Admin
from lrtune.client import Client
from lrtune.errors import JobFinished, Later, MissingScope, NotYours, QuotaReached, Unauthorized
from lrtune.loop import LoopJob
from lrtune.store import Database, leases, workers
from lrtune.store.database import clock
from tests.external import JOB
from tests.test_cli import run, service

__all__ = ["service"]
pytestmark = pytest.mark.usefixtures("service")


def listed(*arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run(*arguments, "--json").stdout)
    return found


def test_a_key_is_created_printed_once_listed_and_revoked() -> None:
    made = run("keys", "create", "ada", "--name", "laptop")
    key = made.stdout.strip()
    assert key.startswith("lrt_")
    assert "shown once" in made.stderr
    (one,) = listed("keys", "list")
    assert (one["person"], one["name"], one["scopes"]) == ("ada", "laptop", ["read", "submit", "work"])
    shown = run("keys", "list").stdout
    assert key not in shown
    assert str(one["id"]) in shown, "whole, because `revoke` takes it"
    with Client(key=key) as ada:
        assert ada.me().person == "ada"
        run("keys", "revoke", str(one["id"]))
        with pytest.raises(Unauthorized):
            ada.me()
    assert "no key 'key-0'" in run("keys", "revoke", "key-0", code=2).stderr
    assert "/scopes" in run("keys", "create", "ada", "--scopes", "read,write", code=2).stderr
    assert json.loads(run("keys", "create", "bob", "--scopes", "admin", "--json").stdout)["key"].startswith("lrt_")


def test_what_somebody_may_use_is_set_piece_by_piece() -> None:
    assert "ada is new here" in run("people", "set", "ada", "--weight", "2", "--queued-jobs", "3").stderr
    again = run("people", "set", "ada", "--full-runs-a-day", "12.5", "--requests-a-minute", "none")
    assert again.stderr == "", "only a name that nobody had before, such as a typo, is said to be new"
    (ada,) = listed("people", "list")
    assert (ada["weight"], ada["own"]) == (2.0, ["queued_jobs", "full_runs_a_day", "requests_a_minute"])
    run("people", "set", "ada", "--queued-jobs", "usual")
    (ada,) = listed("people", "list")
    assert ada["own"] == ["full_runs_a_day", "requests_a_minute"]
    assert "12.5" in run("people", "list").stdout
    assert "--queued-jobs: found 'few'" in run("people", "set", "ada", "--queued-jobs", "few", code=2).stderr


def test_somebody_whose_name_was_a_typo_is_removed() -> None:
    run("people", "set", "adda", "--weight", "2")
    assert "adda is removed" in run("people", "remove", "adda").stdout
    assert listed("people", "list") == []
    assert "nobody is called 'adda'" in run("people", "remove", "adda", code=2).stderr


def test_the_audit_log_says_who_did_what() -> None:
    run("submit", "digits")
    run("people", "set", "ada", "--weight", "2")
    assert [one["action"] for one in listed("audit")] == ["person-set", "job-submitted"]
    assert [one["action"] for one in listed("audit", "--subject", "ada")] == ["person-set"]
    assert "job-submitted" in run("audit", "--limit", "5").stdout


def test_lists_are_read_at_a_glance_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ada = run("keys", "create", "ada", "--name", "laptop").stdout.strip()
    with Client(key=ada) as client:
        job = client.submit({"task": "digits", "name": "digits, wide"})
        client.cancel(job.id)
        with pytest.raises(JobFinished, match=r"^the job is over \(cancelled\)"):
            client.resume(job.id)
    (row,) = [line for line in run("list").stdout.splitlines() if job.id in line]
    assert row.split() == [job.id, "ada", "digits", "digits,", "wide", "cancelled", "0%"], "each in one line, and whole"
    (made,) = listed("keys", "list")
    day = str(made["created_at"])[:10]
    assert day in run("keys", "list").stdout
    assert day in run("audit").stdout
    assert listed("audit", "--actor", "nobody") == []


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_in_a_narrow_terminal_nothing_is_cut_off_and_ids_stay_in_one_piece(
    service: Database, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    job = LoopJob.model_validate_json(run("submit", "digits", "--name", "wide", "--json").stdout).id
    with service.write() as tx:
        workers.sign_in(tx, "gpu-1.example.org-4711", host="gpu-1.example.org", pid=4711, device="cuda:0", tasks=[])
        workers.seen(tx, "gpu-1.example.org-4711", job=job, trial=17)
    for command, cells in {
        ("list",): (job, "digits", "wide", "queued"),
        ("workers",): (job, "gpu-1.example.org-4711", "cuda:0", "17"),
        ("audit",): (job, "admin", "job-submi", "full_runs"),
    }.items():
        said = run(*command).stdout
        assert [cell for cell in cells if cell not in said] == [], said
        assert max(map(len, said.splitlines())) <= columns


def test_lists_say_whose_jobs_they_are_where_there_are_several_people(tmp_path: Path) -> None:
    run("submit", "digits")
    assert "owner" not in run("list").stdout
    with Client() as admin, Client(key=Admin(admin).create_key("ada").key) as ada:
        hers = ada.submit("digits").id
        assert [one.id for one in ada.list(owner="ada")] == [hers]
    assert "ada" in run("list").stdout
    assert [one["id"] for one in listed("list", "--owner", "ada")] == [hers]
    assert "ada" in run("show", hers).stdout


def test_errors_come_as_their_own_classes_and_say_when_to_ask_again() -> None:
    with Client() as admin:
        boss = Admin(admin)
        boss.set_person("ada", quotas={"queued_jobs": 0})
        mine = admin.submit("digits").id
        with Client(key=boss.create_key("ada").key) as ada:
            with pytest.raises(NotYours, match="belongs to admin"):
                ada.cancel(mine)
            with pytest.raises(QuotaReached, match="queued_jobs: ada may have 0 jobs") as found:
                ada.submit("digits")
            assert isinstance(found.value, Later)
            assert found.value.retry_after > 0
            with pytest.raises(MissingScope, match="`admin`"):
                list(Admin(ada).keys())


def test_who_asks_too_often_waits_as_long_as_the_service_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()
    with Client() as admin:
        boss = Admin(admin)
        boss.set_person("ada", quotas={"requests_a_minute": 2})

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            boss.set_person("ada")

        with Client(key=boss.create_key("ada").key) as ada:
            monkeypatch.setattr("lrtune.client.time.sleep", sleep)
            for _ in range(5):
                assert ada.me().person == "ada"
    assert len(slept) == 1
    assert 0 < slept[0] <= 60


def test_a_loop_whose_key_is_revoked_hears_it_in_words_and_its_trial_is_trained_with_another(
    service: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ended = list[tuple[int, int]]()

    def loop(job: LoopJob, revoke: Callable[[], None]) -> None:
        for trial in job.trials():
            for step in range(1, 41):
                if step == 20:
                    revoke()
                if trial.report(step, val_loss=1 / step + trial.learning_rate()):
                    ended.append((trial.number, step))
                    break

    with Client() as admin:
        boss = Admin(admin)
        with Client(key=(made := boss.create_key("ada")).key) as ada:
            job = ada.submit(JOB)
            with pytest.raises(Unauthorized, match="it was revoked, or is another server's"):
                loop(job, lambda: boss.revoke_key(made.id))
        assert ended == [(0, 20)], "it ends as one that is stopped, so that the loop can save what it likes"
        (said,) = [line for line in caplog.messages if line.startswith("trial 0 ")]
        assert said.startswith("trial 0 is no longer ours: the server at http://")
        assert "Traceback" not in caplog.text
        found = admin.trial(job.id, 0)
        assert (found.state, found.step) == ("running", 18), "it has not failed: its lease runs out"
        with service.write() as tx:
            leases.requeue(tx, now=clock(tx) + timedelta(hours=1))
        with Client(key=boss.create_key("ada").key) as ada:
            assert next(ada.get(job.id).trials()).number == 0


def test_a_loop_goes_on_with_its_own_job_of_a_name_and_not_with_anothers() -> None:
    named = JOB | {"name": "mine"}
    with Client() as admin, Client(key=Admin(admin).create_key("ada").key) as ada:
        theirs, hers = admin.open(named).id, ada.open(named).id
        assert theirs != hers
        assert (admin.open(named).id, ada.open(named).id) == (theirs, hers)
        assert ada.get(hers).owner == "ada"
