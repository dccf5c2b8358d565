"""`lrtune check`: every way to write a task wrong has its sentence, and a good one is called good."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lrtune.cli.commands import app
from worker import check

ROOT = str(Path(__file__).parent.parent)
GOOD = """
import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lrtune.task import Task

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(1) > 0).long())


class Given(BaseModel):
    batch_size: int = 8


class Good(Task):
    Params = Given

    def train_set(self):
        return DATA

    def validation_set(self):
        return DATA

    def model(self):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 2))

    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

"""
BROKEN = {
    "not_scalar": ("def loss(self, m, b): return m(b[0])[:, 0]", "loss: found a tensor of shape [8]"),
    "no_tensor": ("def loss(self, m, b): return 0.5", "loss: found float; accepted is one scalar tensor"),
    "not_finite": ("def loss(self, m, b): return m(b[0]).sum() / 0", "at the initial weights; accepted is a finite"),
    "detached": ("def loss(self, m, b): return m(b[0]).sum().detach()", "loss: no gradient can flow from it"),
    "unreached": (
        "def loss(self, m, b): return m[0](b[0]).square().mean()",
        "loss: no gradient reaches 1.weight, 1.bias, 3.weight and 1 more",
    ),
    "random_loss": (
        "def loss(self, m, b): import os; return super().loss(m, b) * (1 + int.from_bytes(os.urandom(4)) / 2**32)",
        "loss: not deterministic",
    ),
    "two_devices": (
        "def loss(self, m, b): return super().loss(m, b) + (torch.ones(2) * m(b[0])).mean()",
        "loss: it mixes devices, so it would fail on a GPU",
    ),
    "ignores_seed": ("def batches(self, seed): return super().batches(3)", "batches: they ignore the seed"),
    "random_batches": (
        "def batches(self, seed): import os; return super().batches(int.from_bytes(os.urandom(4)))",
        "batches: the same seed gave other batches",
    ),
    "dry": (
        "def batches(self, seed): import itertools; return itertools.islice(super().batches(seed), 5)",
        "batches: they ran dry after 5",
    ),
    "no_epoch": ("steps_per_epoch = 2.5", "steps_per_epoch: found 2.5; accepted is a whole number"),
    "no_module": ("def model(self): return 3", "model: found int; accepted is a torch.nn.Module"),
    "one_model": ("M = nn.Linear(3, 2)\n    def model(self): return self.M", "model: it gave the same object twice"),
    "own_weights": (
        "def model(self):\n        import os\n        m = super().model()\n"
        "        nn.init.constant_(m[0].bias, int.from_bytes(os.urandom(4)) / 2**32)\n        return m",
        "model: the same seed gave other weights",
    ),
    "frozen": ("def model(self): return super().model().requires_grad_(False)", "no gradient can flow from it"),
    "bad_groups": ("def groups(self, m): return [{'params': m[0].parameters()}]", "groups: no group has 1.weight"),
    "missing_metric": (
        "metrics = {'val_loss': 'minimize', 'f1': 'maximize'}",
        "evaluate: it does not give f1, which the task says it measures",
    ),
    "nan_metric": ("def measure(self, m, b): return {'val_loss': float('nan')}", "evaluate: val_loss is nan"),
    "no_mapping": ("def evaluate(self, m): return 0.5", "evaluate: found float; accepted is a mapping"),
    "changes": (
        "def evaluate(self, m):\n        m.train()\n        return super().evaluate(m)",
        "evaluate: it changes the model's weights or buffers",
    ),
    "draws": (
        "def evaluate(self, m): torch.rand(1); return super().evaluate(m)",
        "evaluate: it draws from torch's global generator",
    ),
    "no_goals": ("metrics = ['val_loss']", "metrics: found ['val_loss']; accepted are names with goals"),
    "no_model_class": (
        "Params = dict",
        "Params: found <class 'dict'>; accepted is a class that inherits from pydantic",
    ),
    "arguments": ("def __init__(self): pass", "__init__ takes other arguments; accepted is (params, data_dir)"),
    "steps": ("steps = 0", "steps: found 0; accepted is a whole number of at least 2"),
    "raises": ("def loss(self, m, b): return 1 / 0", "it raised ZeroDivisionError: division by zero (in loss, "),
    "exits": ("def train_set(self): raise SystemExit(3)", "it raised SystemExit: 3 (in train_set, "),
}


@pytest.fixture(autouse=True)
def _found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)


def sentences(folder: Path, module: str, text: str, task: str, **params: object) -> list[str]:
    (folder / f"{module}.py").write_text(text)
    return list(check.problems(f"{module}:{task}", params, folder))


def test_a_good_task_has_no_problem(tmp_path: Path) -> None:
    assert sentences(tmp_path, "checked_good", GOOD, "Good", batch_size=4) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_task_is_told_what_is_wrong_with_it(tmp_path: Path, name: str) -> None:
    line, sentence = BROKEN[name]
    text = f"{GOOD}\nclass Bad(Good):\n    {line}\n"
    found = sentences(tmp_path, f"checked_{name}", text, "Bad")
    assert any(sentence in one for one in found), found


@pytest.mark.parametrize(
    ("text", "task", "sentence"),
    [
        (GOOD, "Goood", "has no Goood; its tasks are Good"),
        (GOOD, "Given", "Given is no task; accepted is a class that inherits from lrtune.task.Task"),
        ("from lrtune.task import Task\nclass Half(Task): pass", "Half", "Half does not say its loss and its model"),
        ("import no_such_library", "Vision", "importing checked_import failed: ModuleNotFoundError"),
        ("def f(:", "Vision", "importing checked_import failed: SyntaxError"),
        ("raise SystemExit(1)", "Vision", "importing checked_import failed: SystemExit"),
    ],
)
def test_what_cannot_be_imported_is_told_with_their_own_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, task: str, sentence: str
) -> None:
    monkeypatch.delitem(sys.modules, "checked_import", raising=False)
    (one,) = sentences(tmp_path, "checked_import", text, task)
    assert sentence in one
    assert "worker/tasks" not in one


def test_wrong_parameters_and_paths_are_told(tmp_path: Path) -> None:
    assert sentences(tmp_path, "checked_params", GOOD, "Good", batch_size="many")[0].startswith("task checked_params:")
    assert "unknown parameters width" in sentences(tmp_path, "checked_params", GOOD, "Good", width=3)[0]
    assert "accepted is module:Class" in next(check.problems("my_tasks", {}, tmp_path))
    assert "there is no module 'nowhere_at_all'" in next(check.problems("nowhere_at_all:Task", {}, tmp_path))


def test_the_command_says_it_with_its_exit_code_from_the_folder_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_tasks.py").write_text(f"{GOOD}\nclass Bad(Good):\n    def loss(self, m, b): return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    assert CliRunner().invoke(app, ["check", "my_tasks:Bad"]).exit_code == 1
    said = capfd.readouterr().out
    assert "wrong: it raised ZeroDivisionError: division by zero (in loss, my_tasks.py:" in said
    assert "worker/check.py" not in said

    monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
    assert check.main(["my_tasks:Good"]) == 0
    good = "my_tasks:Good is good: its model, batches, loss and evaluation do what a task is to do\n"
    assert capfd.readouterr().out == good
    assert check.main(["my_tasks:Good", "--params", "[1]"]) == 2
