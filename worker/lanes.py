"""How many trials of a job are trained in lock-step (`worker/cohort.py`): where it can be, and where it pays.

Measured on the task itself, not guessed: a few steps of one trial alone and of several as lanes, which must lose what
the one has lost. A task whose loss `torch.vmap` cannot take, or takes otherwise, is trained one by one.
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from lrtune.analysis.prefixes import Course
from lrtune.task import Task
from lrtune.wire.job import Training
from lrtune.wire.results import Trial
from worker.determinism import mode_of
from worker.memory import give_back, out_of_memory
from worker.run import LiveRun
from worker.stacked import Apart, Stacked, scaled

WARM, TIMED, ROUNDS = 3, 3, 4  # steps before the clock runs, and in each round; the quickest round counts
STEPS = WARM + ROUNDS * TIMED
GAIN = 0.8  # lanes pay where a step of them takes at most so much of the time that it would take one by one
LONG = 0.03  # seconds; a step that takes longer is bound by the device, not by what tells it what to do
NEAR = {"float32": 1e-4, "bfloat16": 2e-2}  # how near the losses of a lane are to those of the same trial alone


@dataclass(frozen=True, slots=True)
class Worth:
    """From how many trials to how many are trained as lanes (at most 1: none are), and why, in words."""

    least: int
    most: int
    words: str

    @classmethod
    def none(cls, why: str) -> "Worth":
        """Trials are trained one by one."""
        return cls(1, 1, f"trials are trained one by one, not as lanes: {why}")


@dataclass(frozen=True, slots=True)
class Sample:
    """The first steps of a training: seconds of one, the losses, and what its first one left in the buffers."""

    seconds: float
    losses: list[Tensor]
    buffers: list[Tensor]


def measure(task: Task, trial: Trial, training: Training, device: torch.device, most: int) -> Worth:
    """How many lanes pay, at most so many. The random generators are left anywhere."""
    if why := _refusal(trial, training, device):
        return Worth.none(why)
    try:
        task = task.to(device)  # once, for all lanes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the training itself are heard
            return _measured(task, trial, training, device, most)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a task may do under vmap, alone it trains
        return Worth.none((str(error).strip() or type(error).__name__).splitlines()[0])
    finally:
        give_back(device)


def _refusal(trial: Trial, training: Training, device: torch.device) -> str:
    """Why such trials are no lanes, before anything is tried; or nothing."""
    if mode_of(training, device) == "exact":
        return "training.determinism is exact, and lanes round otherwise than a trial alone"
    if training.precision not in NEAR:
        return f"training.precision is {training.precision}, whose scale is one trial's own"
    for name, plain in (("ema", None), ("compile", "never"), ("devices", 1)):
        if (found := getattr(training, name)) != plain:
            return f"training.{name} is {found}"
    if not scaled(trial.configuration.optimizer):
        return f"the steps of {trial.configuration.optimizer.as_dict()['name']} are more than a rate times a direction"
    return "" if trial.horizon > STEPS else f"a run has only {trial.horizon} steps"


def _measured(task: Task, trial: Trial, training: Training, device: torch.device, most: int) -> Worth:
    run = LiveRun(task, trial, training, device)
    alone = _sample([run], _alone(run, trial), device)
    del run

    def together(count: int) -> float:
        runs = [LiveRun(task, trial, training, device) for _ in range(count)]
        found = _sample(runs, _stacked(runs, trial), device)
        _compare(alone, found, NEAR[training.precision])
        if name := _remembered(runs[0].engine.model, runs[-1].engine.model):
            raise Apart(f"{name} changes as it trains, which is neither a weight nor a buffer")
        return found.seconds

    if alone.seconds > LONG:
        return Worth.none(f"a step takes {1000 * alone.seconds:.3g} ms, so the device has enough to do")
    count, seconds = most, math.inf
    while count > 1:
        try:
            seconds = together(count)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if seconds <= GAIN * count * alone.seconds:
            break
        count //= 2
    else:
        return Worth.none(
            f"it does not pay, {1000 * alone.seconds:.3g} ms a step alone, {1000 * seconds:.3g} ms for two"
        )
    least = _least(alone.seconds, together(2), seconds, count)
    numbers = f"{1000 * alone.seconds:.3g} ms a step alone, {1000 * seconds:.3g} ms for {count}"
    return Worth(least, count, f"{least} to {count} trials are trained at a time, as lanes of one network: {numbers}")


def _least(alone: float, two: float, seconds: float, count: int) -> int:
    """The fewest lanes that pay, if each lane more takes the same time more."""
    each = (seconds - two) / max(1, count - 2)
    fewest = (two - 2 * each) / max(GAIN * alone - each, 1e-9)
    return min(max(2, math.ceil(fewest)), count)


def _sample(runs: Sequence[LiveRun], steps: Iterator[Tensor], device: torch.device) -> Sample:
    """Train the first steps by the clock."""
    losses = [next(steps)]
    buffers = [buffer.clone() for run in runs for buffer in run.engine.model.buffers()]
    losses += [next(steps) for _ in range(WARM - 1)]
    # On a CPU that others use, too, what this thread has had of it.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = math.inf
    for _ in range(ROUNDS):
        _wait(device)
        begin = clock()
        losses += [next(steps) for _ in range(TIMED)]
        _wait(device)
        seconds = min(seconds, (clock() - begin) / TIMED)
    return Sample(seconds, losses, buffers)


def _alone(run: LiveRun, trial: Trial) -> Iterator[Tensor]:
    course = Course(trial.configuration, trial.horizon)
    for step in range(trial.horizon):
        run.engine.set_factor(course.factor(step))
        yield run.engine.gradients(run.batches)
        run.engine.apply()


def _stacked(runs: Sequence[LiveRun], trial: Trial) -> Iterator[Tensor]:
    rates = Course(trial.configuration, trial.horizon).rates(0, STEPS)
    stacked = Stacked(runs, [trial.configuration] * len(runs))
    return stacked.steps(runs[0].batches, [[rate] * len(runs) for rate in rates])


def _compare(alone: Sample, lanes: Sample, near: float) -> None:
    """Raises Apart where a lane has not trained as the run alone did."""
    for step, (one, many) in enumerate(zip(alone.losses, lanes.losses, strict=True), 1):
        found = many.float()
        if not torch.allclose(found, one.float().expand_as(found), rtol=near, atol=near**2, equal_nan=True):
            raise Apart(f"the loss of step {step} is {float(one):.6g} alone and {float(found[0]):.6g} as a lane")
    for place, buffer in enumerate(lanes.buffers):
        one = alone.buffers[place % len(alone.buffers)]
        if not torch.allclose(buffer.float(), one.float(), rtol=near, atol=near, equal_nan=True):
            raise Apart("its buffers change otherwise in a lane than alone")


def _remembered(called: nn.Module, other: nn.Module) -> str:
    """What a network keeps in plain attributes: all lanes go through that of the first, so it would be theirs alone."""
    kept = {name: dict(vars(module)) for name, module in other.named_modules()}
    for name, module in called.named_modules():
        for key, value in vars(module).items():
            before = kept.get(name, {}).get(key)
            tensors = isinstance(value, Tensor) and is_batchedtensor(value)
            plain = isinstance(value, bool | int | float | str) and value != before
            grown = isinstance(value, list | deque) and isinstance(before, Sized) and len(value) != len(before)
            if tensors or plain or grown:
                return f"{name}.{key}".lstrip(".")
    return ""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
