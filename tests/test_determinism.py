"""Determinism as a job asks for it: what each of the three means for a trial, its key, and its job's log."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lrtune.errors import TaskError
from lrtune.store import Database, events, jobs
from lrtune.task import Task
from lrtune.wire.job import AdmittedJob, TaskSpec, Training
from lrtune.wire.results import TrialState
from tests.serving import Done
from tests.test_engine import losses, trained
from tests.test_trainer import CPU, trial
from worker.cache_key import header
from worker.determinism import MEANING, SHARED, make_deterministic, mode_of, words_of
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare

CUDA = torch.device("cuda")
DIGITS = TaskSpec(name="digits")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    make_deterministic(0)


class Puts(Task):
    """A network with an operation that torch has no deterministic algorithm for, on a CPU either."""

    steps = 40

    def model(self):
        return torch.nn.Linear(4, 1)

    def batches(self, seed):
        drawn = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randn(6, 4, generator=drawn)

    def loss(self, model, batch):
        placed = torch.zeros(6).put(torch.arange(6), model(batch).squeeze(1))
        return (placed - batch.sum(1)).square().mean()

    def evaluate(self, model):
        return {"val_loss": float((model(torch.ones(1, 4)) - 4).square())}


def test_preferred_is_the_default_on_a_gpu_and_exact_on_a_cpu():
    assert (mode_of(Training(), CUDA), mode_of(Training(), CPU)) == ("preferred", "exact")
    assert {mode_of(Training(determinism="off"), one) for one in (CUDA, CPU)} == {"off"}


def test_the_log_says_what_sharing_means_wherever_it_is_not_as_everybody_expects():
    assert words_of(Training(), CPU) == ""
    assert words_of(Training(), CUDA).startswith("training.determinism is preferred, the default on cuda: ")
    assert SHARED in words_of(Training(), CUDA)
    assert SHARED in words_of(Training(determinism="off"), CPU)
    assert "same bits" in words_of(Training(determinism="exact"), CUDA)


def test_exact_refuses_what_has_no_deterministic_algorithm_and_says_what_would_be_accepted():
    with pytest.raises(
        TaskError, match=r"training.determinism: found exact; put_ has no .* accepted are preferred and"
    ):
        trained(Puts(), trial(), Training(determinism="exact"))


def test_preferred_trains_it_names_it_once_and_keeps_every_other_warning():
    said: list[str] = []

    class Warns(Puts):
        def loss(self, model, batch):
            warnings.warn("mine", UserWarning, stacklevel=2)
            return super().loss(model, batch)

    with pytest.warns(UserWarning, match="mine") as heard:
        outcome, _, _ = trained(Warns(), trial(), Training(determinism="preferred"), say_once=said.append)
    assert outcome.state is TrialState.COMPLETE
    assert said == [
        f"training.determinism is preferred: {MEANING['preferred']}",
        "not deterministic on this device, and trained all the same: put_",
    ]
    assert {str(one.message) for one in heard} == {"mine"}


@pytest.mark.parametrize("mode", ["exact", "preferred", "off"])
def test_none_of_them_changes_the_numbers_of_a_network_that_is_deterministic_anyway(mode: str):
    plain = trained(prepare(DIGITS, Path()), trial(), Training())
    assert trained(prepare(DIGITS, Path()), trial(), Training(determinism=mode))[:2] == plain[:2]


def test_what_one_job_asks_for_does_not_outlive_it():
    trained(prepare(DIGITS, Path()), trial(horizon=2), Training(determinism="off", matmul="medium"))
    found = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    assert (*found, torch.backends.cudnn.benchmark) == (False, "medium", True)
    trained(prepare(DIGITS, Path()), trial(horizon=2), Training(determinism="preferred"))
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory, "memory is not filled"
    trained(prepare(DIGITS, Path()), trial(horizon=2), Training())
    found = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    assert (*found, torch.backends.cudnn.benchmark) == (True, "highest", False)
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_key_has_the_determinism_that_was_trained_with_and_exact_goes_without_saying():
    def key(**how):
        return header(DIGITS, "digest", trial(), Training(**how), CPU, owner="job/1")["training"]

    plain = {"precision": "float32", "accumulate": 1, "ema": None, "compile": "never", "devices": 1}
    assert key() == key(determinism="exact") == plain, "as it was before there was a choice"
    assert key(determinism="off") == plain | {"determinism": "off"}
    assert key(determinism="preferred", matmul="high") == plain | {"determinism": "preferred", "matmul": "high"}


def test_a_job_that_says_nothing_of_it_is_stored_as_before():
    assert "determinism" not in Training().model_dump()
    assert "matmul" not in Training.model_validate({"precision": "float32", "devices": 1}).model_dump(mode="json")


def test_a_jobs_log_names_it_once_however_many_trials_meet_it(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = {"task": "tests.test_determinism:Puts", "metric": {"name": "val_loss", "goal": "minimize"}}
    spec |= {"horizon": {"steps": 40}, "budget": {"trials": 3}, "confirm": {"top": 0}}
    database = Database(sqlite_url)
    with database.write() as tx:
        prefers, exact = (
            jobs.create(tx, AdmittedJob.model_validate({**spec, "training": {"determinism": mode}}))[0].id
            for mode in ("preferred", "exact")
        )
    settings = Settings(database_url=sqlite_url, data_dir=tmp_path, tasks="tests.test_determinism:Puts")
    for _ in range(2):  # another worker has nothing new to say
        Worker(settings, Done()).work()
    with database.read() as tx:
        log = [one.message for one in events.page(tx, prefers, after=0, limit=200).items if one.kind == "job-noted"]
        reason = jobs.get(tx, exact).reason
    database.dispose()
    assert log == [
        f"training.determinism is preferred: {MEANING['preferred']}",
        "not deterministic on this device, and trained all the same: put_",
    ]
    assert "training.determinism: found exact; put_ has no deterministic algorithm here" in reason


def test_learning_goes_on_alike_under_each():
    one, two = (trained(Puts(), trial(), Training(determinism=mode))[1] for mode in ("preferred", "off"))
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
