"""A trial in the training loops of torch, Hugging Face and Lightning: what each update really used is the trial's rate.

The optimizer itself writes down the rates that it steps with.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from lrtune.adapters import lightning, transformers
from lrtune.loop import LoopTrial
from tests.adapting import ADAMW, SGD, SHAPE, STEPS, held, rates

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Recording(torch.optim.AdamW):
    """Writes down what it steps with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.used: list[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.used.append([group["lr"] for group in self.param_groups])
        return super().step(closure)

    @property
    def rates(self) -> list[float]:
        return [used[0] for used in self.used]


def recording(model: nn.Module, *, lr: float = 1e-3, **options: Any) -> Recording:
    return Recording(model.parameters(), lr=lr, **options)


def two_groups(model: nn.Linear) -> Recording:
    return Recording([{"params": [model.weight], "lr": 2e-3}, {"params": [model.bias], "lr": 5e-4}])


# Plain torch ---------------------------------------------------------------------------------------------------------


def train(
    trial: LoopTrial, optimizer: torch.optim.Optimizer, model: nn.Module, scheduler: Any, updates: int = STEPS
) -> None:
    for _ in range(updates):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        scheduler.step()


def test_the_rate_of_every_update_is_the_trials() -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = recording(model)
    scheduler = trial.scheduler(optimizer)
    assert isinstance(scheduler, lr_scheduler.LambdaLR)
    train(trial, optimizer, model, scheduler)
    assert optimizer.rates == rates(trial)


@pytest.mark.parametrize("every", [0, 1, 3], ids=["never stepped", "once an update", "once a batch of three"])
def test_the_scheduler_goes_by_updates_however_often_it_is_stepped(every: int) -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = trial.scheduler(optimizer)
    used = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    for _ in range(STEPS):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        for _ in range(every):
            scheduler.step()
    assert used == rates(trial)
    assert scheduler.last_epoch == (STEPS if every else 0)


def test_a_run_that_was_cut_off_goes_on_at_its_step() -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    first = recording(model)
    scheduler = trial.scheduler(first)
    train(trial, first, model, scheduler, 5)
    kept = (first.state_dict(), scheduler.state_dict())
    second = recording(model)
    resumed = trial.scheduler(second)
    second.load_state_dict(kept[0])
    resumed.load_state_dict(kept[1])
    train(trial, second, model, resumed, STEPS - 5)
    third = recording(model)
    train(trial, third, model, trial.scheduler(third, step=5), STEPS - 5)
    assert first.rates + second.rates == first.rates + third.rates == rates(trial)


WARMUPS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "linear from nothing": lambda one: lr_scheduler.LambdaLR(one, lambda step: min(1.0, step / 5)),
    "a part of the rate": lambda one: lr_scheduler.LinearLR(one, start_factor=0.01, total_iters=4),
    "two in a row": lambda one: lr_scheduler.SequentialLR(
        one, [lr_scheduler.LinearLR(one, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(one, 9)], [3]
    ),
}


@pytest.mark.parametrize("warmup", WARMUPS.values(), ids=WARMUPS)
@pytest.mark.parametrize("before", [True, False], ids=["made before", "made after"])
def test_a_warm_up_of_the_scripts_own_is_overruled(warmup: Callable[..., Any], before: bool) -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(two_groups(model).param_groups)
    used = []
    optimizer.register_step_post_hook(lambda *_: used.append([group["lr"] for group in optimizer.param_groups]))
    own = warmup(optimizer) if before else None
    scheduler = trial.scheduler(optimizer)
    own = own or warmup(optimizer)
    for _ in range(STEPS):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
        own.step()
    assert [first for first, _ in used] == rates(trial)
    assert [second for _, second in used] == pytest.approx([rate / 4 for rate in rates(trial)])


def test_two_optimizers_keep_the_ratio_that_they_had() -> None:
    trial, generator, discriminator = held(ADAMW), nn.Linear(3, 1), nn.Linear(3, 1)
    one, two = recording(generator, lr=1e-4), recording(discriminator, lr=4e-4)
    schedulers = trial.scheduler(one), trial.scheduler(two)
    for optimizer, model, scheduler in ((one, generator, schedulers[0]), (two, discriminator, schedulers[1])):
        train(trial, optimizer, model, scheduler)
    assert one.rates == rates(trial)
    assert two.rates == pytest.approx([4 * rate for rate in rates(trial)])


def test_an_update_that_mixed_precision_skips_is_none() -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = trial.scheduler(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    used = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    for batch in range(STEPS + 2):
        optimizer.zero_grad()
        scaler.scale(model(torch.full((2, 3), float("inf") if batch in (0, 4) else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert used == rates(trial)


def test_an_optimizer_serves_one_trial_after_another() -> None:
    model = nn.Linear(3, 1)
    optimizer = two_groups(model)
    for configuration in (ADAMW, ADAMW | {"learning_rate": 0.7}):
        trial = held(configuration)
        optimizer.used.clear()
        train(trial, optimizer, model, trial.scheduler(optimizer))
        assert optimizer.rates == rates(trial)
        assert [used[1] for used in optimizer.used] == pytest.approx([rate / 4 for rate in rates(trial)])


def test_a_schedule_that_looks_at_the_loss_is_followed_from_the_next_update_on() -> None:
    plateau = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    trial, model = held(ADAMW | {"schedule": plateau, "warmup": 0.0}), nn.Linear(3, 1)
    optimizer = recording(model)
    scheduler = trial.scheduler(optimizer)
    wanted = []
    for step in range(1, STEPS + 1):
        wanted.append(trial.learning_rate(step - 1))
        train(trial, optimizer, model, scheduler, 1)
        trial.report(step, val_loss=1.0)
    assert optimizer.rates == wanted
    assert wanted[-1] < wanted[0]


PROXIES: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], str]] = {
    "another class": (
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
        ADAMW,
        r'found sgd, and this trial is one of adamw; write "optimizers": \[{"name": "sgd", "nesterov": true}\] in the job'
        r", or make the optimizer with trial\.optimizer",
    ),
    "another weight decay": (
        lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.3),
        ADAMW,
        r'found adamw with weight_decay 0.3, and this trial has 0.01; write "optimizers": '
        r'\[{"name": "adamw", "weight_decay": 0.3}\]',
    ),
    "no weight decay": (
        lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.0),
        ADAMW,
        r'\[{"name": "adamw", "weight_decay": 0.0}\]',
    ),
    "other betas": (
        lambda parameters: torch.optim.AdamW(parameters, betas=(0.9, 0.95)),
        ADAMW,
        r'\[{"name": "adamw", "beta2": 0.95}\]',
    ),
    "Adam for AdamW": (torch.optim.Adam, ADAMW, r'\[{"name": "adam"}\]'),
    "no momentum": (torch.optim.SGD, SHAPE | {"optimizer": {"name": "sgd"}}, r'\[{"name": "sgd", "momentum": 0.0}\]'),
    "an option that is no knob": (
        lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
        ADAMW,
        r"found adamw with amsgrad True; accepted is False, else set its rates yourself with trial\.learning_rate",
    ),
    "what no job can name": (
        torch.optim.Rprop,
        ADAMW,
        r"found the optimizer Rprop; a job can name sgd, .*learning_rate",
    ),
    "no rate": (
        lambda parameters: torch.optim.AdamW(parameters, lr=0.0),
        ADAMW,
        r"found the rate 0 in the optimizer's first group; accepted is one above 0",
    ),
}


@pytest.mark.parametrize(("make", "configuration", "words"), PROXIES.values(), ids=PROXIES)
def test_an_optimizer_that_is_not_the_trials_is_refused_with_what_to_write_in_the_job(
    make: Callable[..., torch.optim.Optimizer], configuration: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        held(configuration).scheduler(make([nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "adamax", "adadelta"])
def test_the_trials_own_optimizer_is_accepted(name: str) -> None:
    trial = held(SHAPE | {"optimizer": {"name": name, "weight_decay": 0.125}})
    trial.scheduler(trial.optimizer([nn.Parameter(torch.zeros(1))]))


def test_groups_may_be_spared_the_weight_decay() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": decay} for decay in (0.0, 0.2)]
    configuration = SHAPE | {"optimizer": {"name": "adamw", "weight_decay": 0.2}}
    held(configuration).scheduler(torch.optim.AdamW(groups, lr=1e-3))


def test_muon_and_the_adamw_beside_it_follow_one_trial() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    muon = torch.optim.Muon([matrix], lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW([bias], lr=1e-3)
    trial = held(SHAPE | {"optimizer": {"name": "muon"}})
    assert [trial.scheduler(one).get_last_lr() for one in (muon, rest)] == [[trial.learning_rate(0)]] * 2
    with pytest.raises(ValueError, match="found adamw, and this trial is one of muon"):
        held(SHAPE | {"optimizer": {"name": "muon"}}).scheduler(rest)


def test_a_group_that_comes_later_is_refused_in_words() -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = recording(model)
    scheduler = trial.scheduler(optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="found 2 parameter groups, and 1 when the trial began"):
        scheduler.step()


@pytest.mark.parametrize("prepared", [True, False])
def test_accelerates_accumulation_counts_updates(prepared: bool) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = recording(model)
    scheduler = trial.scheduler(optimizer)
    model, wrapped = accelerator.prepare(model, optimizer)
    scheduler = accelerator.prepare(scheduler) if prepared else trial.scheduler(wrapped)
    for _ in range(3 * STEPS):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(2, 3)).sum())
            wrapped.step()
            scheduler.step()
            wrapped.zero_grad()
    assert optimizer.rates == rates(trial)


# Hugging Face --------------------------------------------------------------------------------------------------------


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
        callbacks=[transformers.TrialCallback(trial), *callbacks],
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


def test_the_trainers_early_stopping_and_the_services_both_end_a_run(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    stopped = held(ADAMW, metric="eval_loss", stop=4)
    found = trainer(stopped, tmp_path, **options)
    found.train()
    assert (found.state.global_step, used(found)) == (4, rates(stopped)[:4])
    early = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    more = {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trial = held(ADAMW, metric="eval_loss")
    found = trainer(trial, tmp_path, callbacks=[early], **options, **more)
    found.train()
    assert (found.state.global_step, used(found)) == (4, rates(trial)[:4])


@pytest.mark.parametrize(
    ("options", "configuration", "words"),
    [
        ({"max_steps": 7}, ADAMW, r"found a run of 7 steps; this trial has 12: accepted is .*max_steps=12"),
        ({}, SGD, r"found adamw, and this trial is one of sgd; write"),
        ({"optimizers": lambda _: (None, None)}, ADAMW, r'"optimizers": \[{"name": "adamw", "weight_decay": 0.0}\]'),
        ({"optimizers": lambda _: (None, None), "optim": "adafactor"}, ADAMW, "found the optimizer Adafactor"),
    ],
)
def test_the_trainer_refuses_what_is_not_the_trial(
    options: dict[str, Any], configuration: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(held(configuration), tmp_path, **options).train()


# Lightning -----------------------------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    """A linear model with one optimizer, and a scheduler of its own where one is given."""

    def __init__(self, own: Any = None, groups: bool = False) -> None:
        super().__init__()
        self.linear, self.own = nn.Linear(3, 1), own
        self.made = [two_groups(self.linear) if groups else recording(self.linear)]

    def training_step(self, batch: Any, index: int) -> Any:
        return self.linear(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.linear(batch[0]).pow(2).mean())

    def configure_optimizers(self) -> Any:
        if self.own is None:
            return self.made[0]
        return [self.made[0]], [{"scheduler": self.own(self.made[0]), "interval": "step"}]


class Two(Module):
    """Two optimizers, stepped by hand as often each as `often` says, every `every` batches."""

    def __init__(self, often: tuple[int, int] = (1, 1), every: int = 1) -> None:
        super().__init__()
        self.automatic_optimization, self.often, self.every = False, often, every
        self.other = nn.Linear(3, 1)
        self.made.append(recording(self.other, lr=4e-3))

    def training_step(self, batch: Any, index: int) -> None:
        if (index + 1) % self.every:
            return
        for optimizer, often in zip(self.optimizers(), self.often, strict=True):
            for _ in range(often):
                optimizer.zero_grad()
                self.manual_backward((self.linear(batch[0]) + self.other(batch[0])).pow(2).mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return self.made


def batches(count: int = STEPS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(count * 2, 3)), batch_size=2)


class Endless(IterableDataset[Any]):
    """Examples without an end, and without a length."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield (torch.rand(3),)


def fit(
    trial: LoopTrial | None, module: Module, loader: Any = None, ckpt_path: Any = None, **options: Any
) -> pl.Trainer:
    callbacks = [*([lightning.TrialCallback(trial)] if trial else []), *options.pop("callbacks", [])]
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    kept: dict[str, Any] = {"enable_checkpointing": False, "logger": False}
    found = pl.Trainer(**(quiet | kept | options), callbacks=callbacks)
    found.fit(module, batches() if loader is None else loader, batches(1), ckpt_path=ckpt_path)
    return found


LIGHTNING: dict[str, tuple[Any, dict[str, Any]]] = {
    "steps": (None, {"max_steps": STEPS}),
    "epochs": (None, {"max_epochs": 1}),
    "steps, and epochs without an end": (None, {"max_steps": STEPS, "max_epochs": -1}),
    "fewer steps than epochs": (batches(STEPS), {"max_steps": STEPS, "max_epochs": 9}),
    "accumulation": (batches(2 * STEPS), {"max_epochs": 1, "accumulate_grad_batches": 2}),
    "a part of a batch left over": (batches(7), {"max_epochs": 3, "accumulate_grad_batches": 2}),
    "an endless stream": (DataLoader(Endless(), batch_size=2), {"max_steps": STEPS, "val_check_interval": 4}),
}


@pytest.mark.parametrize(("loader", "options"), LIGHTNING.values(), ids=LIGHTNING)
def test_lightning_updates_at_the_trials_rates(loader: Any, options: dict[str, Any]) -> None:
    trial, module = held(ADAMW), Module()
    fit(trial, module, loader, **options)
    assert module.made[0].rates == rates(trial)


@pytest.mark.parametrize("own", WARMUPS.values(), ids=WARMUPS)
def test_a_modules_own_warm_up_is_overruled_and_its_groups_keep_their_ratios(own: Any, tmp_path: Path) -> None:
    trial, module = held(ADAMW), Module(own, groups=True)
    found = fit(trial, module, max_steps=STEPS, callbacks=[LearningRateMonitor("step")], logger=True,
                default_root_dir=tmp_path, log_every_n_steps=1)  # fmt: skip
    assert module.made[0].rates == rates(trial)
    assert [second for _, second in module.made[0].used] == pytest.approx([rate / 4 for rate in rates(trial)])
    assert found.global_step == STEPS


@pytest.mark.parametrize(
    "options", [{"max_epochs": 1}, {"max_steps": 2 * STEPS}, {"max_steps": 2 * STEPS, "max_epochs": -1}]
)
def test_two_optimizers_run_through_the_schedule_once(options: dict[str, Any]) -> None:
    trial, module = held(ADAMW), Two()
    fit(trial, module, **options)
    assert module.made[0].rates == rates(trial)
    assert module.made[1].rates == pytest.approx([4 * rate for rate in rates(trial)])
    assert trial.over or trial._door.sent[-1].step == STEPS


def test_an_optimizer_that_steps_less_often_stays_with_the_other() -> None:
    trial, module = held(ADAMW), Two(often=(3, 1))
    fit(trial, module, batches(4), max_epochs=1)
    assert module.made[0].rates == rates(trial)
    assert module.made[1].rates == pytest.approx([4 * rate for rate in rates(trial)[2::3]])


def test_accumulation_by_hand_counts_updates() -> None:
    trial, module = held(ADAMW), Two(every=2)
    fit(trial, module, batches(2 * STEPS), max_epochs=1)
    assert module.made[0].rates == rates(trial)


@pytest.mark.parametrize(("kind", "every"), [(Module, 5), (Two, 10)], ids=["one optimizer", "two"])
@pytest.mark.parametrize("followed", [True, False], ids=["kept by a trial's run", "kept by the plain script"])
def test_lightning_resumes_at_its_step(kind: type[Module], every: int, followed: bool, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trial, options = held(ADAMW), {"callbacks": [keep], "enable_checkpointing": True}
    fit(trial if followed else None, kind(), max_epochs=1, **options)
    module = kind()
    fit(trial, module, ckpt_path=tmp_path / f"step={every}.ckpt", max_epochs=1)
    assert module.made[0].rates == rates(trial, 5)


def test_early_stopping_and_the_service_both_end_a_fit() -> None:
    stopped, module = held(ADAMW, stop=4), Module()
    fit(stopped, module, max_steps=STEPS, val_check_interval=2)
    assert module.made[0].rates == rates(stopped)[:4]
    trial, module = held(ADAMW), Module()
    early = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    fit(trial, module, max_steps=STEPS, val_check_interval=2, callbacks=[early])
    assert module.made[0].rates == rates(trial)[:4]


@pytest.mark.parametrize(
    ("module", "loader", "options", "words"),
    [
        (Module, None, {"max_epochs": -1}, r"found a run without an end; this trial has 12: accepted is Trainer\(max_steps=12"),
        (Module, DataLoader(Endless()), {"max_epochs": 1, "val_check_interval": 9}, "found a run without an end"),
        (Module, None, {"max_steps": 5}, "found a run of 5 steps; this trial has 12"),
        (Two, None, {"max_epochs": -1}, "found a run without an end"),
        (Two, None, {"max_steps": STEPS}, r"found a run of 6 steps; this trial has 12: accepted is Trainer\(max_steps=24, which"),
        (Two, None, {"max_epochs": 2}, "found a run of 13 steps; this trial has 12"),
    ],
)  # fmt: skip
def test_lightning_refuses_a_run_of_another_length(
    module: Any, loader: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        fit(held(ADAMW), module(), loader, **options)


def test_lightning_refuses_another_optimizer() -> None:
    with pytest.raises(ValueError, match="found adamw, and this trial is one of sgd"):
        fit(held(SGD), Module(), max_steps=STEPS)
