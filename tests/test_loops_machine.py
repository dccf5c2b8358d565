"""Loops of the user's own take, report, pause, lose and forget in any order, over HTTP, and what must hold holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.external import pass_time, submit, tell
from tests.serving import served

HORIZON, BUDGET = 40, 3.0
JOB: dict[str, Any] = {
    "horizon": {"steps": HORIZON},
    "budget": {"full_runs": BUDGET},
    "optimizers": ["adamw"],
    "schedules": ["cosine", "wsd"],
}
OWN, SAME = {"checkpoints": "own"}, {"deterministic": True}
LOOPS: list[dict[str, Any]] = [
    {"worker": "whole"},
    {"worker": "a", "host": "one", **OWN},
    {"worker": "b", "host": "two", **OWN},
    {"worker": "c", "host": "one", **OWN, **SAME},
    {"worker": "d", "host": "two", "checkpoints": "shared"},
    {"worker": "e", "host": "three", "checkpoints": "shared", **SAME},
]
FEW = settings(
    max_examples=2,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a job's end is slow to shrink
    database=None,
)
ENDED = {"complete", "stopped", "diverged", "failed", "cancelled"}


@dataclass
class Holding:
    """A trial as a loop holds it, or believes so."""

    loop: dict[str, Any]
    handout: dict[str, Any]
    at: int
    live: bool = True
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.handout["trial"]["number"])


class Loops(RuleBasedStateMachine):
    """One job, and the loops that train its trials."""

    door: httpx.Client
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.job = submit(self.door, **JOB)
        self.held: list[Holding] = []
        self.kept: dict[str, tuple[dict[str, Any], int]] = {}  # by name: who has kept it, and after how many steps
        self.count = 0

    def trials(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.door.get(f"/v1/jobs/{self.job}/trials?limit=200").json()["items"]
        return found

    @rule(loop=st.sampled_from(LOOPS))
    def take(self, loop: dict[str, Any]) -> None:
        """Ask for a trial, and delete what is not needed any more."""
        answer = self.door.post(f"/v1/jobs/{self.job}/trials", json=loop)
        assert answer.status_code in (200, 204, 409), answer.text
        if answer.status_code == 200:
            self.handed_out(loop, answer.json())

    def handed_out(self, loop: dict[str, Any], handout: dict[str, Any]) -> None:
        number, start, name = handout["trial"]["number"], handout["start"], handout["checkpoint"]
        assert number not in [one.number for one in self.held if one.live], "one trial, one loop"
        assert 0 <= start < handout["until"] <= HORIZON
        assert (name is None) == (start == 0)
        if name is not None:
            keeper, step = self.kept[name]
            assert step == start, name
            assert readable(keeper, loop), (keeper, loop)
        assert all(one["step"] <= start for one in handout["trial"]["reports"])
        in_use = {one.handout["checkpoint"] for one in self.held if one.live} | {name}
        assert not in_use & set(handout["forget"])
        assert not set(handout["needed"]) & set(handout["forget"])
        for gone in handout["forget"]:
            assert readable(self.kept.pop(gone)[0], loop), "said to one that can delete it, and once"
        self.held.append(Holding(loop, handout, start))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), often=st.integers(1, 4), twice=st.booleans(), bad=st.integers(0, 30))
    def report(self, data: st.DataObject, often: int, twice: bool, bad: int) -> None:
        """Train on, and report as asked; sometimes the answer is lost, and sometimes the training diverges."""
        one = data.draw(st.sampled_from(self.held))
        due = [step for step in one.handout["report_at"] if one.at < step <= one.handout["until"]][:often]
        if one.at == one.handout["until"]:
            due = [one.at]
        value = None if bad == 0 else loss(one, due[-1] if due else one.at)
        batch = [{"step": step, "metrics": {"val_loss": value}} for step in due]
        for _ in range(1 + twice):
            self.heard(one, tell(self.door, self.job, one.handout, "reports", reports=batch))
        one.at = max([one.at, *due])

    def heard(self, one: Holding, answer: httpx.Response) -> None:
        if answer.status_code == 409:
            assert not one.live, answer.text
            self.drop(one)
            return
        assert answer.status_code == 200, answer.text
        if answer.json()["decision"] == "stop":
            self.drop(one)

    def drop(self, one: Holding) -> None:
        one.live = False
        self.held = [other for other in self.held if other is not one]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), start=st.integers(0, 3), twice=st.booleans())
    def begin_again(self, data: st.DataObject, start: int, twice: bool) -> None:
        """The checkpoint cannot be read."""
        one = data.draw(st.sampled_from(self.held))
        if one.at == one.handout["start"] >= start:
            for _ in range(1 + twice):
                self.heard(one, tell(self.door, self.job, one.handout, "reports", start=start))
            one.at, one.handout["start"] = start, start

    @precondition(lambda self: self.held)
    @rule(data=st.data(), twice=st.booleans(), same_name=st.booleans())
    def pause(self, data: st.DataObject, twice: bool, same_name: bool) -> None:
        """Keep what is trained, and say so; not always where it was asked for."""
        one = data.draw(st.sampled_from(self.held))
        self.count += 1
        name = f"trial-{one.number}-{one.loop.get('host')}" if same_name else f"{one.number}@{one.at}-{self.count}"
        for _ in range(1 + twice):
            said = {"state": "paused", "checkpoint": name, "step": one.at}
            answer = tell(self.door, self.job, one.handout, "finish", **said)
            if answer.status_code == 422:
                assert "checkpoints" not in one.loop or one.at in (one.handout["until"], HORIZON), answer.text
                return
            assert answer.status_code == 200 or not one.live, answer.text
            if one.live and one.at:
                self.kept[name] = (one.loop, one.at)
            self.drop(one)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), state=st.sampled_from(["complete", "failed", "waiting", "stopped"]), twice=st.booleans())
    def finish(self, data: st.DataObject, state: str, twice: bool) -> None:
        one = data.draw(st.sampled_from(self.held))
        for _ in range(1 + twice):
            answer = tell(self.door, self.job, one.handout, "finish", state=state, step=one.at)
            if answer.status_code == 422:
                return
            assert answer.status_code == 200 or not one.live, answer.text
            self.drop(one)

    @rule()
    def expire(self) -> None:
        """Nothing was heard of any loop for longer than its lease; some may still speak."""
        pass_time(self.url, 1000)
        for one in self.held:
            one.live = False

    @rule(verb=st.sampled_from(["pause", "resume", "resume"]))
    def hold(self, verb: str) -> None:
        self.door.post(f"/v1/jobs/{self.job}/{verb}")

    @invariant()
    def adds_up(self) -> None:
        found, trials = self.door.get(f"/v1/jobs/{self.job}").json(), self.trials()
        cost = sum(one["step"] - one["reused"] for one in trials) / HORIZON
        assert found["progress"]["full_runs"] == pytest.approx(cost)
        running = {one["number"] for one in trials if one["state"] == "running"}
        live = [one.number for one in self.held if one.live]
        assert running == set(live), "what one believes to hold is held"
        assert len(live) == len(set(live))
        if found["state"] in ("succeeded", "failed", "cancelled"):
            assert all(one["state"] in ENDED for one in trials)

    def teardown(self) -> None:
        """Whatever has happened, a loop that comes now brings the job to its end, within its budget."""
        self.expire()
        self.held = []
        self.door.post(f"/v1/jobs/{self.job}/resume")
        begun = self.door.get(f"/v1/jobs/{self.job}").json()["progress"]["full_runs"]
        for _ in range(100):
            answer = self.door.post(f"/v1/jobs/{self.job}/trials", json=LOOPS[1])
            if answer.status_code != 200:
                break
            self.handed_out(LOOPS[1], answer.json())
            self.train(self.held[-1])
        assert answer.status_code == 409, answer.text
        self.adds_up()
        spent = self.door.get(f"/v1/jobs/{self.job}").json()["progress"]["full_runs"]
        assert spent <= max(begun, BUDGET) + 1, (begun, spent)

    def train(self, one: Holding) -> None:
        for step in [step for step in one.handout["report_at"] if one.at < step <= one.handout["until"]]:
            batch = [{"step": step, "metrics": {"val_loss": loss(one, step)}}]
            answer = tell(self.door, self.job, one.handout, "reports", reports=batch)
            assert answer.status_code == 200, answer.text
            one.at = step
            if answer.json()["decision"] == "stop":
                return self.drop(one)
        said = {} if one.at == HORIZON else {"state": "paused", "checkpoint": f"{one.number}@{one.at}-end"}
        answer = tell(self.door, self.job, one.handout, "finish", **said)
        assert answer.status_code == 200, answer.text
        if said:
            self.kept[said["checkpoint"]] = (one.loop, one.at)
        return self.drop(one)


def readable(keeper: dict[str, Any], loop: dict[str, Any]) -> bool:
    """Whether a loop can read what another has kept."""
    return keeper["checkpoints"] == loop["checkpoints"] == "shared" or keeper["host"] == loop["host"]


def loss(one: Holding, step: int) -> float:
    off = abs(math.log10(one.handout["trial"]["configuration"]["learning_rate"]) + 2.5)
    return 0.2 + 0.3 * off + 2.0 * math.exp(-step / 8)


def test_whatever_loops_do_in_whatever_order_nothing_is_lost_or_counted_twice(sqlite_url: str) -> None:
    with served(sqlite_url) as door:
        made: Callable[[], Loops] = type("Made", (Loops,), {"door": door, "url": sqlite_url})
        run_state_machine_as_test(made, settings=FEW)
