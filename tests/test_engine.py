"""How one update is made: what each option changes, and that what it should not change stays."""

import gc
import os
import re
import signal
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import TaskError
from lrtune.store import Database, events, jobs
from lrtune.task import Task
from lrtune.wire.job import AdmittedJob, Objective, TaskSpec, Training
from lrtune.wire.results import JobState, Report, Trial, TrialState
from tests.serving import Done
from tests.test_trainer import CPU, Seen, trial
from worker import compiling
from worker.batches import examples, split
from worker.engine import Engine
from worker.loop import Worker
from worker.parallel import Died, Member, Team
from worker.settings import Settings
from worker.tasks import prepare
from worker.trainer import follow, train

WIDE = TaskSpec(name="digits", params={"hidden": [32], "noise": 0.5})


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def trained(task: Task, asked: Trial, training: Training, member: Member | None = None, **more):
    reports: list[Report] = []
    said: list[str] = []
    outcome = train(
        task,
        asked,
        metric=Objective(name=next(iter(task.metrics)), goal="minimize"),
        device=CPU,
        on_report=lambda report: reports.append(report),
        should_stop=lambda: None,
        training=training,
        say=said.append,
        member=member,
        **more,
    )
    return outcome, reports, said


def losses(reports: list[Report]) -> list[float]:
    return [report.metrics["val_loss"] or 0.0 for report in reports]


@dataclass
class Small(Task):
    """A network whose loss runs out of memory when it sees more than `room` examples at once."""

    room: int = 1000
    metrics: tuple[str, ...] = ("val_loss",)
    steps_per_epoch: int = 4
    seen: list[int] = field(default_factory=list)

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def batches(self, seed: int) -> Iterator[dict[str, torch.Tensor]]:
        drawn = torch.Generator().manual_seed(seed)
        while True:
            x = torch.randn(12, 4, generator=drawn)
            yield {"x": x, "y": x.sum(1, keepdim=True), "scale": torch.tensor(1.0)}

    def loss(self, model, batch):
        self.seen.append(len(batch["x"]))
        if len(batch["x"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return (model(batch["x"]) - batch["y"]).square().mean() * batch["scale"]

    def evaluate(self, model):
        return {"val_loss": float((model(torch.ones(1, 4)) - 4).square())}


@given(st.integers(1, 40), st.integers(1, 12))
def test_parts_of_a_batch_have_all_its_examples_in_order_and_their_shares_add_up(size: int, parts: int):
    batch = {"x": torch.arange(size), "pair": (torch.arange(size) + 1, torch.tensor(7))}
    pieces = split(batch, parts)
    assert len(pieces) == min(size, parts)
    assert sum(share for share, _ in pieces) == pytest.approx(1)
    assert torch.equal(torch.cat([piece["x"] for _, piece in pieces]), batch["x"])
    assert all(examples(piece) == len(piece["pair"][0]) and piece["pair"][1] == 7 for _, piece in pieces)


def test_when_memory_runs_out_batches_go_in_parts_and_the_training_is_the_same():
    whole, reports, said = trained(Small(), trial(horizon=20), Training())
    assert said == []
    cramped = Small(room=3)
    tight, again, said = trained(cramped, trial(horizon=20), Training())
    assert cramped.seen[:7] == [12, 6, 3, 3, 3, 3, 3]
    assert said == [
        "out of memory with 12 examples at once: batches are trained in 2 parts from here on",
        "out of memory with 12 examples at once: batches are trained in 4 parts from here on",
    ]
    assert losses(again) == pytest.approx(losses(reports), rel=1e-4)
    assert (whole.state, tight.state) == (TrialState.COMPLETE, TrialState.COMPLETE)


def test_a_single_example_that_does_not_fit_is_the_end_in_words():
    with pytest.raises(
        TaskError,
        match=r"a single example of a batch does not fit: .* 49 parameters .*adamw keeps .*free \(CUDA out of memory",
    ):
        trained(Small(room=0), trial(), Training())


def test_a_step_of_two_accumulated_batches_is_a_step_of_one_that_holds_both():
    class Double(Small):
        def batches(self, seed):
            single = super().batches(seed)
            while True:
                one, two = next(single), next(single)
                yield {
                    "x": torch.cat([one["x"], two["x"]]),
                    "y": torch.cat([one["y"], two["y"]]),
                    "scale": one["scale"],
                }

    _, apart, _ = trained(Small(), trial(horizon=20), Training(accumulate=2))
    _, together, _ = trained(Double(), trial(horizon=20), Training())
    assert losses(apart) == pytest.approx(losses(together), rel=1e-4)


def test_the_average_of_the_weights_is_what_is_measured():
    task, asked = Small(), trial(horizon=4, schedule="constant")
    torch.manual_seed(7)
    by_hand = Engine(task, asked, Training(), CPU)
    batches, shadow = task.batches(7), None
    for _ in range(4):
        by_hand.set_factor(1.0)
        by_hand.gradients(batches)
        by_hand.apply()
        now = torch.nn.utils.parameters_to_vector(by_hand.model.parameters()).detach().clone()
        shadow = now if shadow is None else 0.5 * shadow + 0.5 * now
    torch.nn.utils.vector_to_parameters(shadow, by_hand.model.parameters())
    expected = by_hand.evaluate()["val_loss"]
    _, reports, _ = trained(task, asked, Training(ema=0.5))
    assert reports[-1].metrics["val_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_still_learns(precision: str):
    seen: list[torch.dtype] = []

    class Looked(Seen):
        def loss(self, model, batch):
            seen.append(model(batch[0]).dtype)
            return super().loss(model, batch)

    outcome, reports, _ = trained(Looked(prepare(WIDE, Path())), trial(horizon=60), Training(precision=precision))
    assert set(seen) == {getattr(torch, precision)}
    assert outcome.state is TrialState.COMPLETE
    _, full, _ = trained(prepare(WIDE, Path()), trial(horizon=60), Training())
    assert losses(reports) != losses(full)
    assert losses(reports) == pytest.approx(losses(full), rel=0.1)


def test_what_an_engine_keeps_is_what_another_goes_on_from():
    training = Training(ema=0.9, precision="float16")
    task, asked = Small(), trial(horizon=8)
    torch.manual_seed(7)
    first, batches = Engine(task, asked, training, CPU), task.batches(7)
    for _ in range(3):
        first.gradients(batches)
        first.apply()
    second = Engine(task, asked, training, CPU)
    assert second.evaluate() != first.evaluate()
    second.load(first.state())
    assert second.evaluate() == first.evaluate()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiling_is_decided_by_measuring_once_and_said(monkeypatch: pytest.MonkeyPatch):
    """The real compiler on a tiny network, where nothing can pay that is asked to be a thousand times as quick."""
    plain, task = trained(Small(), trial(horizon=40), Training()), Small()
    monkeypatch.setattr(compiling, "MARGIN", 0.001)
    outcome, reports, said = trained(task, trial(horizon=40), Training(compile="auto"))
    assert len(said) == 1
    assert re.match(
        r"torch.compile does not pay: \S+ ms a step without, \S+ ms with, \S+ s to compile, once for", said[0]
    )
    assert (outcome, reports) == plain[:2], "measuring leaves no trace"
    assert trained(task, trial(horizon=40), Training(compile="auto")) == (*plain[:2], [])

    def broken(model):
        raise RuntimeError("no compiler here\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    other = Small()
    outcome, _, said = trained(other, trial(horizon=40), Training(compile="auto"))
    assert said == ["torch.compile does not work here, trained without it: no compiler here"]
    assert outcome == plain[0]
    assert trained(other, trial(horizon=40), Training(compile="auto"))[2] == []


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_trials_of_one_task_are_compiled_once_and_each_begins_with_weights_of_its_own(monkeypatch: pytest.MonkeyPatch):
    made: list[torch.nn.Module] = []
    real = torch.compile

    def noting(model: torch.nn.Module) -> torch.nn.Module:
        made.append(real(model, backend="eager"))
        return setattr(model, "_compile_kwargs", {}) or made[-1]  # as Lightning notes, wherever it was imported

    monkeypatch.setattr(torch, "compile", noting)
    monkeypatch.setattr(compiling, "MARGIN", 1e9)
    task, how = Small(), Training(compile="auto", ema=0.9)
    first, other, again = (
        trained(task, trial(horizon=20, seed=seed, learning_rate=rate), how)
        for seed, rate in ((7, 0.01), (8, 0.1), (7, 0.01))
    )
    assert len(made) == 1, "compiled once"
    assert [len(said) for _, _, said in (first, other, again)] == [1, 0, 0]
    assert first[:2] == again[:2], "nothing of another trial is left in it"
    for found, seed, rate in ((first, 7, 0.01), (other, 8, 0.1)):
        alone = trained(Small(), trial(horizon=20, seed=seed, learning_rate=rate), Training(ema=0.9))
        assert losses(found[1]) == pytest.approx(losses(alone[1]), rel=1e-6)

    class Wider(Small):
        width = 8

        def model(self):
            Wider.width += 1
            return torch.nn.Sequential(torch.nn.Linear(4, Wider.width), torch.nn.Linear(Wider.width, 1))

    odd = Wider()
    assert all(trained(odd, trial(horizon=4), how)[0].state is TrialState.COMPLETE for _ in range(2))
    assert len(made) == 3, "another model is compiled anew"


def test_models_are_alike_only_as_far_as_everything_but_their_weights_goes():
    def net(*, rate: float = 0.1, tied: bool = False, more: object = None) -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(rate), torch.nn.Linear(4, 4))
        if tied:
            model[2].weight = model[0].weight
        model.more = more
        return model

    same = net(more=[1, {"a": (2.0, None)}])
    assert compiling.alike(same, net(more=[1, {"a": (2.0, None)}]))
    others = [net(), net(more=[1, {"a": (2.5, None)}]), net(more=torch.ones(1)), torch.nn.Linear(4, 4)]
    assert not any(compiling.alike(same, other) for other in others)
    assert not compiling.alike(net(), net(rate=0.2))
    assert not compiling.alike(net(), net(tied=True))
    assert not compiling.alike(net(), net().half())
    assert not compiling.alike(net(), net().requires_grad_(False))


def test_a_hundred_trials_take_no_more_memory_than_one():
    """Nothing of a trial lives on after it, not even until Python next looks for circles."""
    alive: list[weakref.ref] = []

    class Watched(Small):
        def model(self):
            alive.append(weakref.ref(made := super().model()))
            return made

    gc.disable()
    try:
        for number in range(100):
            how = Training(ema=0.9 if number % 2 else None, precision="bfloat16" if number % 3 else "float32")
            trained(Watched(room=1000 if number % 50 else 3), trial(horizon=2, seed=number), how)
        assert len(alive) == 100
        assert [one for one in alive if one() is not None] == []
    finally:
        gc.enable()


def test_what_did_not_fit_is_gone_before_the_parts_are_tried():
    held: list[weakref.ref] = []

    class Large(Small):
        def loss(self, model, batch):
            assert [one for one in held if one() is not None] == []
            activations = model[0](batch["x"])
            held.append(weakref.ref(activations))
            return super().loss(model, batch)

    _, _, said = trained(Large(room=3), trial(horizon=2), Training())
    assert len(said) == 2
    assert len(held) > 3


@pytest.mark.parametrize("where", ["model", "evaluate"])
def test_a_trial_that_does_not_fit_says_so_with_the_numbers(where: str):
    class Huge(Small):
        def model(self):
            self.full(where == "model")
            return super().model()

        def evaluate(self, model):
            self.full(where == "evaluate")
            return super().evaluate(model)

        def full(self, now: bool):
            if now:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    numbers = {"model": "before the first step", "evaluate": "its 49 parameters take 1.96e-07 GB, .* adamw keeps"}
    with pytest.raises(
        TaskError, match=f"out of memory.* {numbers[where]}.*cpu has [0-9.]+ GB, [0-9.e-]+ GB of it free"
    ):
        trained(Huge(), trial(), Training())


def two(function) -> Team:
    return Team(2, CPU, function)


def _follow(task: TaskSpec, asked: Trial, training: Training, member: Member) -> None:
    follow(prepare(task, Path()), asked, training, member)


def _die(member: Member) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _loads(member: Member) -> None:
    (loaded,) = torch.utils.data.DataLoader([7], num_workers=1, multiprocessing_context="fork")
    member.gathered(int(loaded))


def _exit(member: Member) -> None:
    sys.exit(0)


def _fail(member: Member) -> None:
    raise ValueError("no such layer")


def test_two_devices_train_what_one_trains():
    asked, training = trial(horizon=30), Training(devices=2, accumulate=2)
    one = trained(prepare(WIDE, Path()), asked, Training(accumulate=2))
    with two(partial(_follow, WIDE, asked, training)) as member:
        outcome, reports, _ = trained(prepare(WIDE, Path()), asked, training, member)
    assert outcome.state is TrialState.COMPLETE
    assert losses(reports) == pytest.approx(losses(one[1]), rel=1e-3)
    assert [r.metrics["train_loss"] for r in reports] == pytest.approx(
        [r.metrics["train_loss"] for r in one[1]], rel=1e-3
    )


def test_a_task_may_load_its_batches_in_processes_of_its_own_on_every_device():
    with two(_loads) as member:
        assert member.gathered(3) == [3, 7]


@pytest.mark.parametrize(
    ("others", "error", "said"),
    [
        (_die, Died, r"the process on device 2 of 2 died \(SIGKILL\)"),
        (_fail, TaskError, "ValueError on device 2 of 2: no such layer"),
        (_exit, TaskError, "SystemExit on device 2 of 2: 0"),
    ],
)
def test_what_goes_wrong_on_another_device_is_said_in_words(others, error: type[Exception], said: str):
    with pytest.raises(error, match=said), two(others) as member:
        trained(prepare(WIDE, Path()), trial(horizon=30), Training(devices=2), member)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_job_says_how_its_trials_are_trained_and_its_log_says_what_was_decided(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lived(training: dict, trials: int) -> tuple[JobState, list[str]]:
        spec = {"task": "digits", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": 20}}
        spec |= {"budget": {"trials": trials}, "confirm": {"top": 0}, "training": training}
        database = Database(sqlite_url)
        with database.write() as tx:
            job = jobs.create(tx, AdmittedJob.model_validate(spec))[0].id
        Worker(Settings(database_url=sqlite_url, data_dir=tmp_path), Done()).work()
        with database.read() as tx:
            state, log = jobs.get(tx, job).state, events.page(tx, job, after=0, limit=100).items
        database.dispose()
        return state, [line.message for line in log if line.kind == "trial-noted"]

    assert lived({"devices": 2}, 1) == (JobState.SUCCEEDED, [])
    monkeypatch.setattr(torch, "compile", None)
    state, said = lived({"precision": "bfloat16", "accumulate": 2, "ema": 0.9, "compile": "auto"}, 2)
    assert state is JobState.SUCCEEDED
    why = "torch.compile does not work here, trained without it: 'NoneType' object is not callable"
    assert said == [f"trial 0: {why}"], "once for all trials of the job in this worker"
