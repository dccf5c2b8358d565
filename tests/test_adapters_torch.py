"""A trial in a training loop of plain torch, or Accelerate's: what each update really used is the trial's rate.

The optimizer itself writes down the rates that it steps with.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from lrtune.loop import LoopTrial
from tests.offline import ADAMW, SHAPE, STEPS, held, rates
from tests.recording import WARMUPS, recording, two_groups

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]


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
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
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


@pytest.mark.parametrize("before", [True, False], ids=["the second goes first", "the first goes first"])
def test_two_optimizers_keep_the_ratio_that_they_had(before: bool) -> None:
    trial, generator, discriminator = held(ADAMW), nn.Linear(3, 1), nn.Linear(3, 1)
    one, two = recording(generator, lr=1e-4), recording(discriminator, lr=4e-4)
    both = [(one, generator, trial.scheduler(one)), (two, discriminator, trial.scheduler(two))]
    for _ in range(STEPS):
        for optimizer, model, scheduler in both[:: -1 if before else 1]:
            train(trial, optimizer, model, scheduler, 1)
    assert one.rates == rates(trial)
    assert two.rates == pytest.approx([4 * rate for rate in rates(trial)])


def test_a_critic_with_five_updates_to_one_of_the_generator_gets_through_the_schedule_with_it() -> None:
    trial, generator, critic = held(ADAMW), nn.Linear(3, 1), nn.Linear(3, 1)
    one, two = recording(generator, lr=1e-4), recording(critic, lr=4e-4)
    schedulers = trial.scheduler(one), trial.scheduler(two)
    for _ in range(STEPS):
        train(trial, two, critic, schedulers[1], 5)
        train(trial, one, generator, schedulers[0], 1)
    assert one.rates == rates(trial)
    assert two.rates == pytest.approx([4 * rate for rate in rates(trial) for _ in range(5)])


def test_an_actor_with_one_update_to_two_of_the_critic_gets_through_the_schedule_with_it() -> None:
    trial, critic, actor = held(ADAMW), nn.Linear(3, 1), nn.Linear(3, 1)
    one, two = recording(critic, lr=4e-4), recording(actor, lr=1e-4)
    schedulers = trial.scheduler(one), trial.scheduler(two)
    for _ in range(STEPS // 2):
        train(trial, one, critic, schedulers[0], 2)
        train(trial, two, actor, schedulers[1], 1)
    assert two.rates == pytest.approx([rate / 4 for rate in rates(trial)[1::2]])


@pytest.mark.parametrize(("batches", "said"), [(1, False), (2, True)], ids=["updates", "batches of two an update"])
def test_reports_that_count_batches_where_they_should_count_updates_are_noticed(
    batches: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trial, model = held(ADAMW), nn.Linear(3, 1)
    optimizer = recording(model)
    scheduler = trial.scheduler(optimizer)
    for batch in range(1, STEPS + 1):
        if batch % batches == 0:
            train(trial, optimizer, model, scheduler, 1)
        trial.report(batch, val_loss=0.5)
    noticed = [one for one in caplog.messages if "updates of the first optimizer: steps are its updates" in one]
    assert len(noticed) == said


@pytest.mark.parametrize(("updates", "said"), [(40, False), (29, True), (51, True)])
def test_a_run_that_says_its_value_at_the_end_alone_is_noticed_where_its_schedule_does_not_end_with_it(
    updates: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A script of 90 updates in a job of 2,000 had an answer, found by schedules of which it trained the warm-up."""
    trial, model = held(ADAMW, steps=40), nn.Linear(3, 1)
    optimizer = recording(model)
    train(trial, optimizer, model, trial.scheduler(optimizer), updates)
    trial.finish(0.5)
    assert (f"ended after {updates} updates of the first optimizer, and its trial has 40 steps" in caplog.text) == said


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
        r'found sgd, and this trial is one of adamw; write "optimizers": \[{"name": "sgd", "nesterov": true}\]'
        r" in the job, or make the optimizer with trial\.optimizer",
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


def test_a_scheduler_that_changes_the_momentum_is_refused_before_it_is_paid_for() -> None:
    for cycles in (True, False):
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=12, cycle_momentum=cycles)
        refused = pytest.raises(ValueError, match=r"changes the momentum, .*; accepted is cycle_momentum=False")
        with refused if cycles else nullcontext():
            held(SHAPE | {"optimizer": {"name": "adam"}}).scheduler(optimizer)


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
