"""States that make room for others: what is gone is counted on no more, and what is counted on does not go."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lrtune import search
from lrtune.search import Beginnings
from lrtune.store import Database, events, jobs, leases, states, trials
from lrtune.store.states import Use
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import NextStep, Proposal, Trial, TrialState
from tests import simulated
from tests.serving import Done
from tests.test_sharing import AHEAD, HOUR, NOON, OTHER, SPEC, WAITS, writing
from tests.test_states import GIB
from worker.loop import Worker
from worker.room import Entry, worst_first
from worker.settings import Settings
from worker.sharing import Ledger
from worker.snapshot import Snapshot
from worker.states import Store

HERE, ELSEWHERE = "this-store", "another-store"


@pytest.fixture
def job(database: Database) -> str:
    """A job whose trials 0 to 2 are paused after 20 steps, with a state after 10 and after 20."""
    write = writing(database)
    made = write(lambda tx: jobs.create(tx, SPEC, now=NOON)[0].id)
    for number, chosen in enumerate((WAITS, AHEAD, OTHER)):
        asked = Proposal(configuration=chosen, role="search", seed=0, horizon=100, until=20)
        assert write(lambda tx, asked=asked, number=number: trials.propose(tx, made, asked, known=number, now=NOON))
        lease = write(lambda tx: leases.claim(tx, "w", ttl=HOUR, now=NOON))
        keys = {f"{number}-10": 10, f"{number}-20": 20}
        write(lambda tx, lease=lease, keys=keys: states.found(tx, HERE, lease.id, keys))
        write(lambda tx, lease=lease: leases.pause(tx, lease, value=1.0, step=20, reason="as planned", now=NOON))
    return made


def resumed(database: Database, job: str, number: int, chosen: Configuration, start: int | None, known: int) -> bool:
    asked = Proposal(configuration=chosen, role="search", seed=0, horizon=100, resume=number, start=start, until=40)
    with database.write() as tx:
        return trials.propose(tx, job, asked, known=known, now=NOON)


def at_hand(database: Database, job: str) -> dict[int, list[int]]:
    with database.read() as tx:
        return states.at_hand(tx, job, HERE)


def test_a_state_that_was_let_go_is_counted_on_no_more_and_a_decision_that_counted_on_it_is_not_carried_out(
    database: Database, job: str
) -> None:
    assert at_hand(database, job) == {number: [10, 20] for number in range(3)}
    with database.write() as tx:
        assert states.let_go(tx, HERE, ["0-20", "1-10", "unknown"]) == {"0-20", "1-10", "unknown"}
        assert states.let_go(tx, ELSEWHERE, ["2-10"]) == {"2-10"}
    assert at_hand(database, job) == {0: [10], 1: [20], 2: [10, 20]}
    assert not resumed(database, job, 0, WAITS, 20, known=3)
    assert resumed(database, job, 0, WAITS, 10, known=3)
    with database.read() as tx:
        found, log = trials.get(tx, job, 0), events.latest(tx, job, before=None, limit=2).items
    assert (found.state, found.start, found.cost) == (TrialState.WAITING, 10, 20 + 30)
    assert [one.kind for one in log] == ["trial-resumed", "trial-began-again"]
    assert log[1].message == "trial 0 begins again at step 10 instead of 20: there is no later state of it"


def test_a_state_that_a_trial_is_to_go_on_from_does_not_go_until_it_has_gone_on(database: Database, job: str) -> None:
    assert resumed(database, job, 1, AHEAD, 20, known=3)
    write = writing(database)
    every = [f"{number}-{step}" for number in range(3) for step in (10, 20)]
    assert write(lambda tx: states.let_go(tx, HERE, every)) == {*every} - {"1-20"}
    assert at_hand(database, job) == {1: [20]}
    lease = write(lambda tx: leases.claim(tx, "w", ttl=HOUR, now=NOON))
    assert (lease.trial.number, lease.trial.start) == (1, 20)
    assert write(lambda tx: states.let_go(tx, HERE, every)) == {*every} - {"1-20"}
    write(lambda tx: leases.pause(tx, lease, value=1.0, step=40, reason="as planned", now=NOON))
    assert write(lambda tx: states.let_go(tx, HERE, ["1-20"])) == {"1-20"}


def test_what_is_spoilt_is_gone_even_where_a_trial_is_to_go_on_from_it(database: Database, job: str) -> None:
    assert resumed(database, job, 1, AHEAD, 20, known=3)
    ledger = Ledger(writing(database), lambda: HERE)
    ledger.record(10**6, {"of a trial that is gone": 5}, ["1-20"])
    assert at_hand(database, job) == {0: [10, 20], 1: [10], 2: [10, 20]}


def test_room_is_made_of_what_nobody_counts_on_and_the_best_of_the_paused_goes_last(tmp_path: Path) -> None:
    def entry(name: str, kind: str, score: float = 0.0, at: float = 0.0, step: int = 10) -> Entry:
        return Entry(f"space/{name}", name, step, kind, score, 1, at)  # type: ignore[arg-type]

    def use(number: int, step: int = 10, **what: bool) -> list[Use]:
        return [
            Use(1, number, step, **({"begun": False, "on_its_way": False, "resumable": False, "paused": False} | what))
        ]

    paused = {"resumable": True, "paused": True}
    there = {
        entry("begun", "stage"): use(1, begun=True),
        entry("best paused", "stage", 0.1): use(2, **paused),
        entry("worse paused", "stage", 0.9, at=50.0): use(3, **paused),
        entry("paused without a value", "stage", float("nan"), at=60.0): use(4, **paused),
        entry("stopped", "running"): use(5, resumable=True),
        entry("newest trunk", "trunk", step=30, at=1.0): use(6, step=30),
        entry("older trunk", "trunk", step=20): use(6, step=20),
        entry("replaced", "stage", 0.95, at=9.0): use(2, step=5),
        entry("whole run", "end", 0.9, at=99.0): [],
        entry("on its way", "running", at=90.0): use(7, on_its_way=True),
        entry("nobody's", "running", at=-4000.0): [],
        **{entry(f"leader {place}", "end", -1.0 - place, at=99.0): [] for place in range(3)},
    }
    uses = {one.key: of for one, of in there.items()}

    def order(kind: str) -> list[str]:
        return [one.key for one in worst_first([*there], uses, kind=kind, now=100.0)]  # type: ignore[arg-type]

    first = ["nobody's", "whole run", "older trunk", "replaced"]
    leaders = ["leader 0", "leader 1", "leader 2"]
    assert order("end") == order("running") == [*first, *leaders]
    assert order("trunk") == [*first, *leaders, "stopped", "newest trunk"]
    assert order("stage") == [*order("trunk"), "paused without a value", "worse paused", "best paused"]


def state(step: int, size: int) -> Snapshot:
    return Snapshot({"model/w": torch.zeros(size // 4)}, {"step": step, "trained": [], "reports": []})


def test_a_state_is_left_out_where_all_that_is_there_is_worth_more_and_nothing_goes_for_it(
    database: Database, job: str, tmp_path: Path
) -> None:
    write = writing(database)
    store = Store(str(tmp_path), budget=50_000, ledger=(ledger := Ledger(write, lambda: HERE)))
    rows = [f"{number:064x}" for number in range(4)]
    with database.read() as tx:
        ids = [number for (number,) in tx.execute(states.select(states.TrialRow.id).order_by(states.TrialRow.id))]
    for place, number in enumerate(ids):
        assert store.write("0" * 64, rows[place], "stage", float(place), state(30, 12_000))
        ledger.record(number, {rows[place]: 30}, ())
    assert store.write("0" * 64, rows[3], "end", 0.0, state(100, 12_000)), "there is room for it"
    assert store.write("0" * 64, "a" * 64, "end", 0.5, state(100, 12_000)), "a whole run makes room for another"
    assert store.write("0" * 64, "b" * 64, "running", 0.5, state(50, 30_000)) is None
    assert {*store.entries("0" * 64)} == {*rows[:3], "a" * 64}, "nothing has gone in vain"
    assert store.write("0" * 64, "c" * 64, "stage", 0.5, state(50, 24_000))
    assert {*store.entries("0" * 64)} == {*rows[:2], "c" * 64}, "the worst of the paused made room beside the whole run"
    assert at_hand(database, job) == {0: [10, 20, 30], 1: [10, 20, 30], 2: [10, 20]}


def test_what_one_worker_is_writing_takes_its_room_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Store(str(tmp_path), budget=30_000) for _ in range(2))
    fill, meanwhile = Store._fill, list[Entry | None]()

    def slowly(self: Store, half: str, data: Any) -> None:
        if self is first:
            meanwhile.append(second.write("0" * 64, "2" * 64, "stage", 0.1, state(2, 20_000)))
        fill(self, half, data)

    monkeypatch.setattr(Store, "_fill", slowly)
    assert first.write("0" * 64, "1" * 64, "stage", 0.2, state(1, 20_000))
    assert meanwhile == [None]
    assert [*second.entries("0" * 64)] == ["1" * 64]
    assert second.write("0" * 64, "2" * 64, "stage", 0.1, state(2, 20_000))
    assert [*second.entries("0" * 64)] == ["2" * 64]


def test_the_folder_of_a_store_that_is_made_anew_is_another_store(tmp_path: Path) -> None:
    first, second = Store(str(tmp_path / "s"), budget=GIB), Store(str(tmp_path / "s"), budget=GIB)
    known = first.id()
    assert second.id() == known
    (tmp_path / "s" / "store-id").unlink()
    assert second.id() == first.id() != known
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["store-id"]


def test_the_room_for_states_is_by_default_a_quarter_of_the_free_disk_and_is_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "not" / "there"))
    assert store.budget == pytest.approx(shutil.disk_usage(tmp_path).free / 4, rel=0.05)
    assert "a quarter of what is free there; LRTUNE_STATE_BYTES sets it" in store.room()
    assert Store("memory://states").budget == 32 * GIB
    assert "as LRTUNE_STATE_BYTES says" in Store(str(tmp_path), budget=GIB).room()


# --- what the search makes of it ------------------------------------------------------------------------------------


STEPS = 100


def paused_and_whole(spec: AdmittedJob) -> list[Trial]:
    """A search that has two whole runs and some paused ones, as it would go on its way."""
    history: list[Trial] = []

    def loss(one: Trial) -> list[object]:
        rate = one.configuration.learning_rate
        return simulated.evenly([abs(rate - 0.01) + 1.0 / place for place in range(1, 21)], one.horizon)  # type: ignore[return-value]

    while sum(one.completed(STEPS) for one in history) < 2 or not any(one.state == "paused" for one in history):
        step = search.advance(spec, history, steps=STEPS, seconds=0.0)
        assert step.proposal is not None
        simulated.train(history, step.proposal, loss)  # type: ignore[arg-type]
    return history


@pytest.fixture(scope="module")
def past() -> tuple[AdmittedJob, list[Trial]]:
    spec = simulated.job("curve", steps=STEPS, budget={"full_runs": 8}, confirm={"top": 0})
    return spec, paused_and_whole(spec)


def asked(spec: AdmittedJob, history: list[Trial], budget: float, beginnings: Beginnings | None) -> NextStep:
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": budget})})
    return search.advance(spec, history, steps=STEPS, seconds=0.0, beginnings=beginnings)


def every(history: list[Trial]) -> dict[int, list[int]]:
    return {one.number: [stage.step for stage in one.stages] for one in history}


def test_a_paused_run_whose_states_are_gone_has_its_whole_price_again(past: tuple[AdmittedJob, list[Trial]]) -> None:
    spec, history = past
    spent = sum(one.cost for one in history) / STEPS
    longest = max((one for one in history if one.state == "paused"), key=lambda one: one.step)
    enough = spent + 1 - longest.step / STEPS + 0.001
    kept = asked(spec, history, enough, Beginnings(every(history), every=True)).proposal
    assert kept is not None
    assert (kept.resume, kept.start, kept.until) == (longest.number, longest.step, None)
    gone = Beginnings({}, every=True)
    assert asked(spec, history, enough, gone).proposal is None, "nothing can be brought to its end for what is left"
    whole = asked(spec, history, spent + 1.001, gone).proposal
    assert whole is not None
    assert whole.until is None
    assert whole.start == (0 if whole.resume is not None else None)


def test_what_was_seen_of_a_run_whose_states_are_gone_is_not_bought_once_more(
    past: tuple[AdmittedJob, list[Trial]],
) -> None:
    spec, history = past
    for budget in (4.5, 5.0, 6.0, 8.0):
        found = asked(spec, history, budget, Beginnings({}, every=True)).proposal
        assert found is not None
        if found.resume is not None:
            assert (found.until or STEPS) > history[found.resume].step


def test_a_first_stage_is_worth_its_state(past: tuple[AdmittedJob, list[Trial]]) -> None:
    spec, history = past
    first = history[:1]
    assert asked(spec, first, 8, Beginnings(every(first), every=True)).proposal.until in (5, 10)  # type: ignore[union-attr]
    long = asked(spec, first, 8, Beginnings(every(first), every=True, least=18)).proposal
    assert long is not None
    assert long.until == 20
    longer = asked(spec, first, 8, Beginnings(every(first), every=True, least=10**6)).proposal
    assert longer is not None
    assert longer.until == 25, "a quarter of a run at most"


LARGE_NET = pytest.param(4.2, [7000, 7000], 20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])  # 600 MB a state


@pytest.mark.parametrize(("room", "hidden", "steps"), [(4.5, [64, 64], 60), (1.5, [64, 64], 60), LARGE_NET])
def test_a_job_with_room_for_few_states_keeps_its_budget_and_counts_on_none_that_is_gone(
    room: float, hidden: list[int], steps: int, sqlite_url: str, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    spec = AdmittedJob.model_validate(
        {
            "task": {"name": "digits", "params": {"hidden": hidden}},
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": steps},
            "schedules": ["constant", "cosine", "wsd"],
            "budget": {"full_runs": 3},
            "confirm": {"top": 0},
        }
    )
    widths = [64, *hidden, 10]
    size = (
        12 * sum(one * other + other for one, other in pairwise(widths)) + 20_000
    )  # weights and two moments, generators
    database = Database(sqlite_url)
    with database.write() as tx:
        made = jobs.create(tx, spec)[0].id
    settings = Settings(
        database_url=sqlite_url, device="cpu", state_dir=str(tmp_path / "kept"), state_bytes=int(room * size)
    )
    Worker(settings, Done()).work()
    with database.read() as tx:
        assert jobs.get(tx, made).state == "succeeded"
        history, log = trials.history(tx, made), events.page(tx, made, after=0, limit=1000).items
        known = states.at_hand(tx, made, (tmp_path / "kept" / "store-id").read_text())
    database.dispose()
    assert sum(one.cost for one in history) <= 3 * steps
    started = [event for event in log if event.kind in ("trial-started", "trial-taken-up")]
    resumed = [(one, after) for one, after in pairwise(started) if " from step " in one.message]
    assert resumed
    for before, after in resumed:
        step = int(before.message.partition(" from step ")[2].split()[0])
        assert (after.kind, after.trial, after.data["step"] >= step) == ("trial-taken-up", before.trial, True), (
            "what was counted on was there"
        )
    files = [path.name.split("_") for path in (tmp_path / "kept").rglob("*.safetensors")]
    assert len(files) <= room
    there = {int(step) for _, step, *_ in files}
    assert {step for at in known.values() for step in at} <= there, "what is written down is there"
    shutil.rmtree(tmp_path / "kept")


# --- large ones -----------------------------------------------------------------------------------------------------
