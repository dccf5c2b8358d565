"""A trial in Hugging Face's Trainer: what each update used is the trial's rate, as the optimizer writes it down."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from lrtune.adapters.transformers import TrialCallback
from lrtune.errors import Invalid
from lrtune.loop import LoopTrial
from tests.offline import ADAMW, SGD, STEPS, Door, handout, held, rates
from tests.recording import WARMUPS, recording, two_groups

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]


class Regression(nn.Module):
    """A linear model as the Trainer wants one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.linear(x)
        return {"loss": nn.functional.mse_loss(found, labels), "logits": found}


EXAMPLES = [{"x": torch.full((3,), place / 48), "labels": torch.ones(1)} for place in range(48)]


def trainer(trial: LoopTrial, folder: Path, optimizers: Any = None, callbacks: Any = (), **options: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_steps": STEPS, "per_device_train_batch_size": 4} | options
    settings: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    model = Regression()
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **(settings | arguments)),
        train_dataset=EXAMPLES,
        eval_dataset=EXAMPLES[:4],
        optimizers=optimizers(model) if optimizers else (recording(model), None),
        callbacks=[TrialCallback(trial), *callbacks],
    )


def used(found: Trainer) -> list[float]:
    optimizer = found.optimizer.optimizer
    return optimizer.rates


TRAINERS: dict[str, dict[str, Any]] = {
    "its default": {},
    "warm-up steps": {"warmup_steps": 4},
    "a share of warm-up": {"warmup_steps": 0.3},
    "accumulation": {"gradient_accumulation_steps": 3},
    "epochs": {"max_steps": -1, "num_train_epochs": 1},
    **{
        kind: {"lr_scheduler_type": kind, "warmup_steps": 3}
        for kind in ("cosine", "inverse_sqrt", "constant_with_warmup")
    },
    "restarts": {"lr_scheduler_type": "cosine_with_restarts"},
    "on a plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 3},
}


@pytest.mark.parametrize("options", TRAINERS.values(), ids=TRAINERS)
def test_the_trainer_updates_at_the_trials_rates_and_logs_them(options: dict[str, Any], tmp_path: Path) -> None:
    trial = held(ADAMW, metric="eval_loss")
    found = trainer(trial, tmp_path, logging_steps=1, **options)
    found.train()
    assert used(found) == rates(trial)
    logged = [entry["learning_rate"] for entry in found.state.log_history if "learning_rate" in entry]
    assert logged == rates(trial)


@pytest.mark.parametrize("own", WARMUPS.values(), ids=WARMUPS)
def test_the_trainers_groups_keep_their_ratios_under_a_scheduler_of_ones_own(own: Any, tmp_path: Path) -> None:
    def optimizers(model: Regression) -> Any:
        optimizer = two_groups(model.linear)
        return optimizer, own(optimizer)

    trial = held(ADAMW, metric="eval_loss")
    found = trainer(trial, tmp_path, optimizers)
    found.train()
    assert used(found) == rates(trial)
    assert [second for _, second in found.optimizer.optimizer.used] == pytest.approx([r / 4 for r in rates(trial)])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_resumes_at_its_step(accumulation: int, tmp_path: Path) -> None:
    trial = held(ADAMW, metric="eval_loss")
    options = {
        "save_strategy": "steps",
        "save_steps": 5,
        "gradient_accumulation_steps": accumulation,
        "warmup_steps": 2,
    }
    trainer(trial, tmp_path, **options).train()
    found = trainer(trial, tmp_path, **options)
    found.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert used(found) == rates(trial, 5)


@pytest.mark.parametrize("metric", ["eval_loss", "loss"])
def test_the_trainers_early_stopping_and_the_services_both_end_a_run(tmp_path: Path, metric: str) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    stopped = held(ADAMW, metric=metric, stop=4)
    found = trainer(stopped, tmp_path, **options)
    found.train()
    assert (found.state.global_step, used(found)) == (4, rates(stopped)[:4])
    early = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    more = {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trial = held(ADAMW, metric=metric)
    found = trainer(trial, tmp_path, callbacks=[early], **options, **more)
    found.train()
    assert (found.state.global_step, used(found)) == (4, rates(trial)[:4])


@pytest.mark.parametrize(
    ("options", "folder", "said"),
    [
        ({"save_strategy": "steps", "save_steps": 5, "save_total_limit": 1}, "runs", True),
        ({"save_strategy": "steps", "save_steps": 5, "save_total_limit": 1}, "runs/0", False),
        ({"save_strategy": "steps", "save_steps": 5}, "runs", False),
        ({"save_total_limit": 1}, "runs", False),
    ],
    ids=["one folder for all", "one for each", "no limit", "nothing saved"],
)
def test_trials_that_would_delete_each_others_checkpoints_are_warned_of(
    options: dict[str, Any], folder: str, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(held(ADAMW, metric="eval_loss"), tmp_path / folder, eval_strategy="steps", eval_steps=6, **options).train()
    assert ('give each trial a folder of its own: output_dir=f"' in caplog.text) == said


@pytest.mark.parametrize("metric", ["eval_first_loss", "eval_second_loss", "second_loss"])
def test_the_metric_may_be_one_of_any_of_several_sets(metric: str, tmp_path: Path) -> None:
    trial = held(ADAMW, metric=metric)
    found = trainer(trial, tmp_path, eval_strategy="steps", eval_steps=3)
    found.eval_dataset = {"first": EXAMPLES[:4], "second": EXAMPLES[4:8]}
    found.train()
    logged = [entry for entry in found.state.log_history if f"eval_{metric.removeprefix('eval_')}" in entry]
    sent = [(one.step, one.metrics[metric]) for one in trial._door.sent]  # type: ignore[attr-defined]
    assert [(entry["step"], entry[f"eval_{metric.removeprefix('eval_')}"]) for entry in logged][: len(sent)] == sent
    assert [step for step, _ in sent] == [3, 6, 9, 12]
    for one in trial._door.sent:  # type: ignore[attr-defined]
        of_step = [entry for entry in found.state.log_history if entry["step"] == one.step]
        known = {name: value for entry in of_step for name, value in entry.items() if name.endswith("_loss")}
        losses = {name: value for name, value in one.metrics.items() if name in ("eval_first_loss", "eval_second_loss")}
        assert losses.items() <= known.items(), "of this evaluation, not of the one before"
        assert one.step == 3 or len(losses) == 2, "all of them, once it is known how many sets there are"


def test_a_metric_that_none_of_several_sets_has_is_found_at_once(tmp_path: Path) -> None:
    found = trainer(held(ADAMW, metric="accuracy"), tmp_path, eval_strategy="steps", eval_steps=3)
    found.eval_dataset = {"first": EXAMPLES[:4], "second": EXAMPLES[4:8]}
    with pytest.raises(Invalid, match=r"found epoch, eval_first_loss, .*eval_second_loss.* at step 3"):
        found.train()


def test_a_script_may_evaluate_once_more_after_the_service_has_ended_its_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = trainer(held(ADAMW, metric="eval_loss", stop=4), tmp_path, eval_strategy="steps", eval_steps=2)
    found.train()
    assert found.evaluate()["eval_loss"] > 0.0
    assert "is reported again" not in caplog.text


def test_what_is_evaluated_after_the_training_alone_is_the_trials_value(tmp_path: Path) -> None:
    door = Door(handout(ADAMW, metric="eval_loss"))
    found = trainer(LoopTrial(door, "job", door.held), tmp_path)
    found.train()
    measured = found.evaluate()["eval_loss"]
    assert [(one.step, one.metrics["eval_loss"]) for one in door.sent] == [(STEPS, measured)]


@pytest.mark.parametrize(
    ("options", "configuration", "words"),
    [
        ({"max_steps": 7}, ADAMW, r"found a run of 7 steps; this trial has 12: accepted is .*max_steps=12"),
        ({}, SGD, r"found adamw, and this trial is one of sgd; write"),
        ({"optimizers": lambda _: (None, None)}, ADAMW, r'"optimizers": \[{"name": "adamw", "weight_decay": 0.0}\]'),
        (
            {"max_grad_norm": 0.5},
            ADAMW | {"clip_norm": 2.0},
            "by norm at 0.5, and this trial clips at 2; write",
        ),
        ({"optimizers": lambda _: (None, None), "optim": "adafactor"}, ADAMW, "found the optimizer Adafactor"),
    ],
)
def test_the_trainer_refuses_what_is_not_the_trial(
    options: dict[str, Any], configuration: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(held(configuration), tmp_path, **options).train()
