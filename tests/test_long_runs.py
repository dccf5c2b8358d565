"""A run of 10^8 steps: no call takes longer for a longer run, but for those that answer with every step."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from lrtune.schedules import Curve
from tests.serving import KEY, served

LONG = 100_000_000  # steps; the most that a job may ask for
FEW = 5_000  # rates looked up for one answer; the search looks at 64 of every candidate
FITTED = 20_000  # of the 250 candidates, at 64 points each, among which a model forecasts for a report or a map
ANSWERED = 100_000  # rates in one answer at most


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch, thinking_here: None) -> Iterator[Callable[[], int]]:
    """How many rates the server in this process has looked up since it was asked last."""
    count, over = 0, Curve.over

    def counting(curve: Curve, steps: int) -> Callable[[int], float]:
        factor = over(curve, steps)

        def counted(step: int) -> float:
            nonlocal count
            count += 1
            return factor(step)

        return counted

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(Curve, "over", counting)
    return since


@pytest.mark.parametrize("family", ["cosine", {"family": "wsd", "decay": 0.1}, {"family": "plateau", "patience": 0}])
def test_no_call_takes_longer_for_a_longer_run(sqlite_url: str, looked_up: Callable[[], int], family: Any) -> None:
    job = {
        "task": "external",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "horizon": {"steps": LONG},
        "schedules": [family],
        "floor": 0.01,
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials": 2},
        "confirm": {"top": 0},
    }

    with served(sqlite_url) as door, httpx.Client(base_url=door.base_url, timeout=60, trust_env=False) as browser:

        def asked(path: str, body: Any = None, client: httpx.Client = door, *, most: int = FEW) -> Any:
            answer = client.get(path) if body is None else client.post(path, json=body)
            assert answer.is_success, answer.text
            assert looked_up() <= most, path
            return answer.json() if answer.headers["Content-Type"] == "application/json" else answer.text

        browser.post("/sign-in", data={"key": KEY})
        asked("/v1/jobs?validate_only=true", job)
        path = f"/v1/jobs/{asked('/v1/jobs', job)['id']}"
        for number in range(2):
            held = asked(f"{path}/trials", {}, most=ANSWERED + FEW)
            trial, token = f"{path}/trials/{number}", held["token"]
            for step in (LONG // 4, LONG // 2):
                report = {"step": step, "metrics": {"val_loss": 1.0}}
                asked(f"{trial}/reports", {"token": token, "reports": [report]}, most=ANSWERED + FEW)
            asked(trial)
            assert len(asked(f"{trial}/rates?start={LONG - 20}&count=10")["learning_rates"]) == 10
            asked(f"{trial}/finish", {"token": token, "value": 1.0 - number / 2, "step": LONG})
        for part in ("", "/trials", "/curves", "/landscape", "/best", "/report", "/events"):
            asked(path + part, most=FITTED if part in ("/report", "/landscape") else FEW)
        for format in ("pytorch", "keras", "optax", "transformers", "lightning", "deepspeed", "timm"):
            asked(f"{path}/best/export?format={format}")
        asked("/v1/schedules/preview", {"schedule": family, "steps": 1_000_000, "floor": 0.01})
        page = path.removeprefix("/v1")
        for part in ("", "/summary", "/why", "/table", "/log", "/export", "/trials/1"):
            asked(page + part, client=browser)


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_a_report_without_the_metric_says_nothing_to_a_schedule_that_looks_at_it(sqlite_url: str, goal: str) -> None:
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = {
        "task": "external",
        "metric": {"name": "score", "goal": goal},
        "horizon": {"steps": 40},
        "schedules": [plateau],
        "warmup": 0.0,
        "budget": {"trials": 2},
        "confirm": {"top": 0},
    }
    with served(sqlite_url) as door:

        def post(path: str, **body: Any) -> Any:
            answer = door.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        path = f"/v1/jobs/{post('/v1/jobs', **job)['id']}/trials"
        post(f"{path}/0/finish", token=post(path)["token"], value=1.0)
        held = post(path)
        peak, token = held["trial"]["configuration"]["learning_rate"], held["token"]
        first = {"step": 1, "metrics": {"score": 2.0 if goal == "minimize" else 0.0}}
        reports = [first, *({"step": step, "metrics": {"other": 1.0}} for step in (2, 4, 6, 8, 10))]
        assert post(f"{path}/1/reports", token=token, reports=reports)["learning_rates"] is None
        stalled = [{"step": step, "metrics": {"score": 1.0, "other": 1.0}} for step in (12, 14, 16)]
        mixed = [stalled[0], {"step": 13, "metrics": {"other": 1.0}}, stalled[1]]
        assert post(f"{path}/1/reports", token=token, reports=mixed)["learning_rates"] is None
        assert post(f"{path}/1/reports", token=token, reports=stalled[2:])["learning_rates"] == [peak * 0.5] * 24
        assert door.get(f"{path}/1/rates").json()["learning_rates"] == [peak] * 16 + [peak * 0.5] * 24
        assert {one["learning_rate"] for one in door.get(f"{path}/1").json()["reports"]} == {peak}
