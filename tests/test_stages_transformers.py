"""Hugging Face's Trainer in stages: a run that was paused twice is the one of one piece, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from lrtune.adapters.transformers import TrialCallback
from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import in_stages, range_test, stage

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]
EXAMPLES = [{"x": torch.full((3,), place / 40), "labels": torch.ones(1)} for place in range(40)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.losses = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1)), list[float]()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.net(x)
        loss = nn.functional.mse_loss(found, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": found}


def train(
    trial: LoopTrial, output: Path, *, resume: bool = True, sets: Any = None, callbacks: Any = (), **options: Any
) -> tuple[list[float], list[Any]]:
    set_seed(trial.seed)
    model = Net()
    settings: dict[str, Any] = {"max_steps": trial.steps, "per_device_train_batch_size": 4, "save_strategy": "no"}
    settings |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": trial.seed, "weight_decay": 0.0}
    found = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output), **(settings | options)),
        train_dataset=EXAMPLES,
        eval_dataset=sets or EXAMPLES[:4],
        optimizers=(trial.optimizer(model.parameters()), None),
        callbacks=[*callbacks, TrialCallback(trial)],
    )
    found.train(resume_from_checkpoint=trial.checkpoint_path if resume else None)
    return model.losses, [one.tolist() for one in model.parameters()]


SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "its own evaluations": {"eval_strategy": "steps", "eval_steps": 3},
    "its own checkpoints": {"save_strategy": "steps", "save_steps": 5},
}


BEST_ALONE = {"save_strategy": "best", "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 3}


@pytest.mark.parametrize("options", [{}, {"eval_strategy": "epoch", "save_strategy": "epoch"}, BEST_ALONE], ids=str)
@pytest.mark.parametrize("metric", ["eval_loss", "eval_first_loss", "eval_second_loss"])
def test_a_stage_is_kept_once_whatever_the_trainer_measures_and_saves(
    metric: str, options: dict[str, Any], tmp_path: Path
) -> None:
    several = metric != "eval_loss"
    more = options | ({"sets": {"first": EXAMPLES[:4], "second": EXAMPLES[4:8]}} if several else {})
    more |= {"metric_for_best_model": metric} if options is BEST_ALONE else {}

    def one(trial: LoopTrial) -> list[float]:
        return train(trial, tmp_path / "out", **more)[0]

    whole = in_stages(tmp_path / "kept", one, [STEPS], metric=metric)
    before = {file.name for file in (tmp_path / "out").glob("checkpoint-*")}
    assert in_stages(tmp_path / "kept", one, [4, 10, STEPS], metric=metric) == whole
    left = {file.name for file in (tmp_path / "out").glob("checkpoint-*")}
    assert options is BEST_ALONE or left == before


@pytest.mark.parametrize("ends", [pytest.param([5, 9, STEPS], marks=pytest.mark.slow), [4, 10, STEPS]], ids=str)
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_trainer_paused_twice_trains_bit_for_bit_as_in_one_piece(
    options: dict[str, Any], ends: list[int], tmp_path: Path
) -> None:
    last: list[Any] = []

    def one(trial: LoopTrial) -> list[float]:
        losses, last[:] = train(trial, tmp_path / "out", **options)
        return losses

    whole = in_stages(tmp_path / "kept", one, [STEPS], metric="eval_loss")
    weights = list(last)
    assert in_stages(tmp_path / "kept", one, ends, metric="eval_loss") == whole
    assert last == weights
    left = {file.name for file in (tmp_path / "out").glob("checkpoint-*")}
    assert left == ({"checkpoint-5", "checkpoint-10", "checkpoint-12"} if "save_steps" in options else set())


def test_a_damaged_checkpoint_begins_again_and_a_run_that_does_not_resume_is_refused(tmp_path: Path) -> None:
    first = stage(tmp_path / "kept", 0, 5, None, metric="eval_loss")
    train(first, tmp_path / "out")
    name = first._door.end.checkpoint  # type: ignore[attr-defined]
    forgetful = stage(tmp_path / "kept", 5, STEPS, name, metric="eval_loss")
    with pytest.raises(ValueError, match=r"begins after step 0; this trial goes on after 5: write trainer.train\("):
        train(forgetful, tmp_path / "out", resume=False)
    file = tmp_path / "kept" / name / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = stage(tmp_path / "kept", 5, STEPS, name, metric="eval_loss")
    losses, _ = train(again, tmp_path / "out")
    assert (len(losses), again.start, again._door.began) == (STEPS, 0, 0)  # type: ignore[attr-defined]


def test_a_range_test_ends_at_its_own_end_in_a_script_of_the_jobs_length(tmp_path: Path) -> None:
    trial = range_test(tmp_path / "kept", 6, metric="eval_loss")
    losses, _ = train(trial, tmp_path / "out", max_steps=STEPS)
    assert len(losses) == 6
    assert [one.step for one in trial._door.sent][-1] == 6  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="found a run of 5 steps; this trial has 6"):
        train(range_test(tmp_path / "kept", 6, metric="eval_loss"), tmp_path / "out", max_steps=5)


def test_trainers_in_stages_that_share_an_output_folder_keep_out_of_each_others_checkpoints(tmp_path: Path) -> None:
    class Neighbour(TrainerCallback):
        """Another process with the same `output_dir`, whose `save_total_limit` deletes what it finds there."""

        def on_save(self, *_: Any, **__: Any) -> None:
            for found in (tmp_path / "out").glob("checkpoint-*"):
                shutil.rmtree(found)

    saving = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}

    def one(trial: LoopTrial) -> list[float]:
        more: dict[str, Any] = saving | {"load_best_model_at_end": True, "callbacks": [Neighbour()]}
        return train(trial, tmp_path / "out", **more)[0]

    whole = in_stages(tmp_path / "kept", one, [STEPS], metric="eval_loss")
    assert in_stages(tmp_path / "kept", one, [5, STEPS], metric="eval_loss") == whole


@pytest.mark.parametrize("end", [3, 5])
def test_a_stage_ends_without_an_error_where_the_best_is_loaded_and_one_checkpoint_alone_is_kept(
    end: int, tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}

    def one(trial: LoopTrial) -> list[float]:
        return train(trial, tmp_path / "out", load_best_model_at_end=True, save_total_limit=1, **saving)[0]

    whole = in_stages(tmp_path / "kept", one, [STEPS], metric="eval_loss")
    assert in_stages(tmp_path / "kept", one, [end, STEPS], metric="eval_loss") == whole
