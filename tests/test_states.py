"""Training nothing twice: what is put together from states equals, bit for bit, what is trained alone."""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from lrtune.analysis.prefixes import Course, shared
from lrtune.optimizers import OPTIMIZERS
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric, TaskSpec, Training
from lrtune.wire.results import Report, Trial
from tests.test_trainer import CPU, LOSS, Line, Seen, files, trial
from worker import cache_key
from worker.cache_key import Keys
from worker.checkpoint_cache import CheckpointCache, Start
from worker.digest import task_digest
from worker.packing import DTYPES, packed, unpacked
from worker.snapshot import Snapshot
from worker.states import Store
from worker.tasks import prepare
from worker.trainer import Outcome, train

GIB = 2**30
PLAIN = Training()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Lab:
    """Trains trials over one store, and keeps what they said and the weights they came to."""

    def __init__(self, url: str | Path, *, budget: int = GIB, spec: TaskSpec | None = None) -> None:
        self.store, self.spec = Store(str(url), budget=budget), spec or TaskSpec(name="digits")
        self.said: list[tuple[str, str]] = []
        self.starts: list[Start] = []
        self.stop_at = 10**9

    def cache(self, task: Task, asked: Trial, *, metric: Metric = LOSS, training: Training = PLAIN) -> CheckpointCache:
        owner = f"job/{asked.number}"
        head = cache_key.header(self.spec, task_digest(task), asked, training, CPU, owner=owner)
        return CheckpointCache(
            self.store,
            Keys(head),
            owner=owner,
            metric=metric,
            say=lambda *words: self.said.append(words),
            on_start=lambda start: self.starts.append(start) if start.step else None,
        )

    def train(
        self, task: Task, asked: Trial, *, shares: bool = True, metric: Metric = LOSS, training: Training = PLAIN
    ) -> tuple[Outcome, list[Report], list[torch.Tensor]]:
        seen, reports = Seen(task), list[Report]()
        cache = self.cache(task, asked, metric=metric, training=training) if shares else None
        outcome = train(
            seen,
            asked,
            metric=metric,
            device=CPU,
            on_report=lambda report: reports.append(report),
            should_stop=lambda: None,
            training=training,
            cache=cache,
        )
        if cache:
            cache.close()
        return (
            outcome,
            reports,
            [p.detach().clone() for p in (*seen.models[-1].parameters(), *seen.models[-1].buffers())],
        )


def unmarked(reports: list[Report]) -> list[Report]:
    return [report.model_copy(update={"reused": False}) for report in reports]


def same(one: tuple, other: tuple) -> bool:
    return (one[0], unmarked(one[1])) == (other[0], unmarked(other[1])) and all(
        torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True)
    )


HOLDING = [
    {"family": "constant"},
    {"family": "wsd", "decay": 0.3},
    {"family": "wsd", "decay": 0.5, "shape": "sqrt"},
    {"family": "step", "every": 0.35},
    {"family": "multistep", "milestones": [0.5, 0.8]},
    {"family": "multistep", "milestones": [0.5, 0.9]},
    {"family": "plateau", "patience": 1, "factor": 0.5},
    {"family": "plateau", "patience": 2, "threshold": 0.5},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(data=st.data())
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shared_training_equals_training_alone_for_every_optimizer(
    optimizer: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("states")
    spec = TaskSpec(name="digits", params={"hidden": [8]})
    equal_however_shared(Lab(folder, spec=spec), prepare(spec, Path()), optimizer, data)


@pytest.mark.parametrize("name", ["digits", "tabular", "images", "text"])
@given(data=st.data())
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shared_training_equals_training_alone_for_every_task(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("states")
    spec = TaskSpec(name=name, params=files(folder)[name])
    equal_however_shared(Lab(folder / "kept", spec=spec), prepare(spec, folder), "adamw", data)


def equal_however_shared(lab: Lab, task: Task, optimizer: str, data: st.DataObject) -> None:
    """Two configurations of the same beginning, the first perhaps paused: the second starts from it."""
    first, second = (data.draw(st.sampled_from(HOLDING)) for _ in range(2))
    around = {
        "optimizer": {"name": optimizer},
        "learning_rate": data.draw(st.sampled_from([0.001, 0.01])),
        "warmup": data.draw(st.sampled_from([0.0, 0.1])),
        "clip_norm": data.draw(st.sampled_from([None, 1.0])),
        "horizon": data.draw(st.integers(40, 70)),
        "seed": data.draw(st.integers(0, 3)),
    }
    until = data.draw(st.none() | st.integers(20, 39))
    lab.train(task, trial(schedule=first, **around).model_copy(update={"until": until}))
    wanted = trial(schedule=second, **around).model_copy(update={"number": 4})
    together = lab.train(task, wanted)
    assert same(together, lab.train(task, wanted, shares=False))
    sure = shared(
        Configuration.model_validate(wanted.configuration.model_dump() | {"schedule": first}),
        wanted.configuration,
        around["horizon"],
        until=until,
    )
    reused = lab.starts[-1].reused if lab.starts else 0
    assert reused >= sure, "the search was promised more than there was"
    assert [report.reused for report in together[1]] == [report.step <= reused for report in together[1]]
    assert lab.said == []


@pytest.mark.parametrize("training", [{"ema": 0.9}, {"accumulate": 2}, {"precision": "bfloat16"}])
def test_what_the_engine_keeps_is_taken_up_too(training: dict, tmp_path: Path):
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    how = Training.model_validate(training)
    lab.train(task, asked.model_copy(update={"until": 22}), training=how)
    assert same(lab.train(task, asked, training=how), lab.train(task, asked, training=how, shares=False))
    assert [start.step for start in lab.starts] == [22]


def test_a_stage_is_resumed_where_it_ended_even_between_reports(tmp_path: Path):
    lab, task = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path())
    asked = trial(horizon=60)
    for until in (19, 43):
        lab.train(task, asked.model_copy(update={"until": until}))
    assert same(lab.train(task, asked.model_copy(update={"number": 9})), lab.train(task, asked, shares=False))
    assert lab.starts == [Start(19, 0, ()), Start(43, 43, ("job/3",))]


def test_a_plateau_takes_up_a_constant_run_only_as_far_as_its_own_reductions(tmp_path: Path):
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1}

    class Stuck(Line):
        def evaluate(self, model):
            return {"val_loss": max(4.0, float((model.weight - 3).square()))}

    lab, around = Lab(tmp_path), {"horizon": 40, "learning_rate": 0.08, "optimizer": {"name": "sgd"}}
    lab.train(Stuck(), trial(schedule="constant", **around))
    alone = lab.train(Stuck(), trial(schedule=plateau, **around), shares=False)
    assert same(lab.train(Stuck(), trial(schedule=plateau, **around)), alone)
    (reduced, *_) = [report.step for report in alone[1] if report.learning_rate < 0.08]
    assert [start.step for start in lab.starts] == [reduced - 2]


def test_a_stranger_can_recompute_a_key_from_its_documentation():
    asked = trial(horizon=40, schedule="wsd", warmup=0.1, clip_norm=1.0)
    head = cache_key.header(TaskSpec(name="digits"), "d" * 64, asked, PLAIN, CPU, owner="job/3")
    course = Course(asked.configuration, 40)
    text = json.dumps(head, sort_keys=True, separators=(",", ":"))
    whole = hashlib.sha256(text.encode())
    for step, rate in enumerate(asked.configuration.learning_rates(40)[:30], start=1):
        whole.update(struct.pack("<dB", rate, step % 2 == 0))
    assert Keys(head).at(course, [12, 30])[30] == whole.hexdigest()
    assert head["optimizer"]["name"] == "adamw"
    assert (head["seed"], head["peak"], head["clip_norm"], head["clip_value"]) == (7, 0.01, 1.0, None)
    assert head["device"]["kind"] == "cpu"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"clip_norm": 0.5},
        {"optimizer": {"name": "adamw", "weight_decay": 0.3}},
        {"learning_rate": 0.02},
        {"warmup": 0.1},
        {"horizon": 60},
    ],
)
def test_whatever_changes_the_training_changes_the_key(change: dict):
    keys = set()
    for asked in (trial(horizon=40), trial(**{"horizon": 40} | change)):
        head = cache_key.header(TaskSpec(name="digits"), "d", asked, PLAIN, CPU, owner="job/3")
        keys.add(Keys(head).at(Course(asked.configuration, asked.horizon), [20])[20])
    assert len(keys) == 2


def test_a_task_is_known_by_its_data_its_parameters_and_its_code(tmp_path: Path):
    (tmp_path / "a").mkdir()
    params = files(tmp_path / "a")
    one = {name: task_digest(prepare(TaskSpec(name=name, params=params[name]), tmp_path / "a")) for name in params}
    assert len(set(one.values())) == 4
    (tmp_path / "b").mkdir()
    files(tmp_path / "b")
    again = {name: task_digest(prepare(TaskSpec(name=name, params=params[name]), tmp_path / "b")) for name in params}
    assert again == one, "the same data elsewhere"
    text = tmp_path / "b" / "text.txt"
    text.write_text(text.read_text().replace("question", "QUESTION", 1))
    assert task_digest(prepare(TaskSpec(name="text", params=params["text"]), tmp_path / "b")) != one["text"]
    wider = TaskSpec(name="text", params=params["text"] | {"layers": 2})
    assert task_digest(prepare(wider, tmp_path / "a")) != one["text"]
    assert task_digest(Line()) != task_digest(Seen(Line()))


def test_a_task_that_cannot_be_read_shares_with_nobody():
    task = Line()
    task.secret = (number for number in range(3))
    assert task_digest(task) != task_digest(task)
    task.digest = lambda: "mine, version 3"
    assert task_digest(task) == task_digest(task)


def only_state(folder: Path) -> Path:
    (path,) = folder.rglob("*_stage_*.safetensors")
    return path


def damaged(path: Path, how: str) -> None:
    """Spoil a state in one of the ways that disks, people and upgrades know."""
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        at, to = (b'\\"format\\":1', b'\\"format\\":9') if how == "other version" else (b"safe", b"safe")
        spoilt = data.replace(at, to)
        assert spoilt != data
        checksum = hashlib.sha256(spoilt).hexdigest()[:32]
        path.with_name(path.name.replace(path.stem.rpartition("_")[2], checksum)).write_bytes(spoilt)
        path.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "do not have the checksum of its name"),
        ("one bit", "do not have the checksum of its name"),
        ("empty", "its 0 bytes do not have the checksum"),
        ("other version", "it is of format 9; this worker reads 1"),
    ],
)
def test_a_spoilt_state_is_ignored_said_and_removed(how: str, words: str, tmp_path: Path):
    lab, task, asked = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    damaged(only_state(tmp_path), how)
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    ((kind, message),) = lab.said
    assert kind == "state-ignored"
    assert words in message
    assert lab.starts == []
    assert list(tmp_path.rglob("*_stage_*")) == []


def test_a_state_swapped_for_anothers_is_found_out(tmp_path: Path):
    lab, task = Lab(tmp_path), prepare(TaskSpec(name="digits"), Path())
    asked = trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    mine = only_state(tmp_path)
    other = Lab(tmp_path / "other")
    other.train(task, trial(horizon=40, seed=8).model_copy(update={"until": 22}))
    theirs = only_state(tmp_path / "other")
    key = mine.name.partition("_")[0]
    mine.with_name(key + theirs.name[len(key) :]).write_bytes(theirs.read_bytes())
    mine.unlink()
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert ["it is another state than its name says" in message for _, message in lab.said] == [True]


def test_a_state_that_does_not_fit_the_network_is_no_state(tmp_path: Path):
    lab, asked = Lab(tmp_path), trial(horizon=40)

    class Wide(Line):
        wide = 2

        def digest(self):
            return "a lie"

        def model(self):
            super().model()
            return torch.nn.Sequential(torch.nn.Linear(1, self.wide), torch.nn.Linear(self.wide, 1))

        def evaluate(self, model):
            return {"val_loss": 1.0}

    lab.train(Wide(), asked.model_copy(update={"until": 22}))
    task = Wide()
    task.wide = 3
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert "does not fit this training" in lab.said[0][1]


@pytest.mark.parametrize("url", ["memory://states-of-a-test", "file://{tmp}/a", "{tmp}/b/c"])
def test_any_file_system_of_fsspec_will_do(url: str, tmp_path: Path):
    lab, task, asked = Lab(url.format(tmp=tmp_path)), prepare(TaskSpec(name="digits"), Path()), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert [start.step for start in lab.starts] == [22]


class Tied(Line):
    """A network in a precision that NumPy does not have, with one weight at two places, laid out by columns."""

    def digest(self) -> str:
        return "tied"

    def model(self) -> torch.nn.Module:
        super().model()
        first, last = (torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16) for _ in range(2))
        last.weight = first.weight
        model = torch.nn.Sequential(first, last)
        model.register_buffer("columns", torch.arange(6.0).reshape(2, 3).t())
        return model

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        while True:
            yield torch.ones(2, 4, dtype=torch.bfloat16)

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        return {"val_loss": float(model[0].weight.float().square().mean())}


def test_one_weight_at_two_places_in_bfloat16_is_taken_up_too(tmp_path: Path):
    lab, task, asked = Lab(tmp_path), Tied(), trial(horizon=40)
    lab.train(task, asked.model_copy(update={"until": 22}))
    assert same(lab.train(task, asked), lab.train(task, asked, shares=False))
    assert ([start.step for start in lab.starts], lab.said) == ([22], [])


def filed(state: Snapshot, key: str = "k") -> bytes:
    """The file of a state."""
    file = packed(state, key=key)
    data = b"".join(file.parts)
    assert len(data) == file.size
    return data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_the_library_reads_what_is_written_here(dtype: torch.dtype, shape: tuple[int, ...]):
    tensors = {"odd": torch.ones(3, dtype=torch.bool), "asked": torch.full(shape, 1.0).to(dtype)}
    notes = {"step": 1, "reports": [], "trained": [[1, "somebody"]]}
    file = filed(Snapshot(tensors, notes))
    for found in (load(file), unpacked(np.frombuffer(bytearray(file), dtype=np.uint8), key="k", step=1).tensors):
        assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
            name: (one.dtype, one.shape) for name, one in tensors.items()
        }
        wide = torch.complex128
        assert all(torch.equal(found[name].to(wide), one.to(wide)) for name, one in tensors.items())
