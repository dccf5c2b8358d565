"""Tasks as users write them, in a file outside the project, tuned over HTTP by a real server and a real worker."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import processes
from tests.serving import served

pytestmark = pytest.mark.timeout(300)
MY_TASKS = '''
import sys

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lrtune.task import Task


class VisionParams(BaseModel):
    width: int = 4
    batch_size: int = 16


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x):
        return F.relu(x + self.norms[1](self.two(F.relu(self.norms[0](self.one(x))))))


class Vision(Task):
    """A ResNet on small pictures of stripes."""

    Params = VisionParams
    metrics = {"val_accuracy": "maximize", "val_loss": "minimize"}
    steps = 40

    def pictures(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(2, (count,), generator=generator)
        stripes = (torch.arange(8) % 2).float().expand(8, 8)
        x = torch.stack([stripes if label else stripes.T for label in y])[:, None]
        return TensorDataset(x + torch.randn(x.shape, generator=generator), y)

    def train_set(self):
        return self.pictures(256, seed=1)

    def validation_set(self):
        return self.pictures(64, seed=2)

    def model(self):
        width = self.params.width
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), Block(width), Block(width),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2),
        )

    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def measure(self, model, batch):
        right = (model(batch[0]).argmax(1) == batch[1]).float().mean()
        return {"val_accuracy": right, "val_loss": self.loss(model, batch)}


class Words(Task):
    """A small transformer that counts on: its own batches and evaluation."""

    steps = 40
    steps_per_epoch = 8

    def text(self, seed):
        start = torch.randint(10, (16, 1), generator=torch.Generator().manual_seed(seed))
        return (start + torch.arange(9)) % 10

    def batches(self, seed):
        step = 0
        while True:
            yield {"text": self.text(seed * 100_003 + step)}
            step += 1

    def model(self):
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Embedding(10, 16), nn.TransformerEncoder(layer, 1), nn.Linear(16, 10))

    def groups(self, model):
        return [{"params": model[0].parameters(), "rate": 0.5}, {"params": model[1:].parameters()}]

    def loss(self, model, batch):
        text = batch["text"]
        return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    def evaluate(self, model):
        device = next(model.parameters()).device
        return {"val_loss": float(self.loss(model, {"text": self.text(-1).to(device)}))}


class Broken(Vision):
    """Fails in mid-course."""

    def measure(self, model, batch):
        return self.ratio(0)

    def ratio(self, count):
        return {"val_accuracy": 1 / count, "val_loss": 0.0}


class Quitter(Vision):
    """Wants to end everything."""

    def model(self):
        sys.exit("enough")
'''
NAMES = ",".join(f"my_tasks:{name}" for name in ("Vision", "Words", "Broken", "Quitter"))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[httpx.Client]:
    """A server, and beside it a worker process that has the tasks of that file."""
    folder = tmp_path_factory.mktemp("your-task")
    (folder / "my_tasks.py").write_text(MY_TASKS)
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{folder / 'lrtune.db'}"
    env = {"LRTUNE_DATABASE_URL": url, "LRTUNE_TASKS": NAMES, "LRTUNE_POLL_SECONDS": "0.05", "LRTUNE_DEVICE": "cpu"}
    with served(url) as client:
        worker = processes.start("worker", environment=env, log=folder / "worker.log", cwd=folder)
        try:
            until(lambda: client.get("/v1/workers").json()["items"], folder)
            yield client
            assert worker.is_alive(), "the worker outlived every task"
        finally:
            worker.terminate()
            worker.join()


def until(found, folder: Path | None = None):
    end = time.monotonic() + 150
    while not (answer := found()):
        log = folder and (folder / "worker.log").read_text()[-2000:]
        assert time.monotonic() < end, log
        time.sleep(0.1)
    return answer


def tuned(http: httpx.Client, task: object) -> dict:
    body = {"task": task, "budget": {"full_runs": 3}, "confirm": {"top": 1, "seeds": 1}, "schedules": ["cosine"]}
    made = http.post("/v1/jobs", json=body)
    assert made.status_code == 201, made.text
    path = f"/v1/jobs/{made.json()['id']}"
    return until(lambda: (job := http.get(path).json())["state"] in ("succeeded", "failed") and job)


def test_a_resnet_of_ones_own_is_tuned(http: httpx.Client) -> None:
    job = tuned(http, {"name": "my_tasks:Vision", "params": {"width": 6}})
    assert (job["state"], job["reason"]) == ("succeeded", "")
    assert job["spec"]["task"]["params"] == {"width": 6, "batch_size": 16}
    assert (job["best"]["metric"], job["best"]["goal"], job["steps"]) == ("val_accuracy", "maximize", 40)
    assert job["best"]["value"] > 0.85


def test_a_transformer_of_ones_own_is_tuned(http: httpx.Client) -> None:
    job = tuned(http, "my_tasks:Words")
    assert (job["state"], job["reason"]) == ("succeeded", "")
    assert job["best"]["value"] < 2.3, "better than guessing among ten"


def failures(http: httpx.Client, job: dict) -> list[dict]:
    events = http.get(f"/v1/jobs/{job['id']}/events?limit=200").json()["items"]
    return [event for event in events if event["kind"] == "trial-failed"]


def test_a_broken_task_fails_its_trial_with_the_lines_of_whoever_wrote_it(http: httpx.Client) -> None:
    job = tuned(http, "my_tasks:Broken")
    assert job["state"] == "failed"
    event = failures(http, job)[0]
    assert "failed: ZeroDivisionError: division by zero (in ratio, my_tasks.py:" in event["message"]
    trace = event["data"]["traceback"]
    assert 'my_tasks.py", line' in trace
    assert "in measure" in trace
    assert "1 / count" in trace
    assert "worker/" not in trace
    assert "lrtune/task.py" not in trace


def test_a_task_that_calls_sys_exit_ends_its_trial_and_not_the_worker(http: httpx.Client) -> None:
    job = tuned(http, "my_tasks:Quitter")
    assert job["state"] == "failed"
    assert "SystemExit: enough (in model, my_tasks.py:" in failures(http, job)[0]["message"]
    assert len(http.get("/v1/workers").json()["items"]) == 1
