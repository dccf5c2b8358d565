"""How one update is made: precision, accumulated batches, averaged weights, and smaller parts when memory runs out.

The trainer says which rate and when; what happens between a batch and a moved weight is here. With nothing asked for
(`Training()`) it is a plain forward, backward, clip and step, the same bits as by hand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrtune.errors import TaskError
from lrtune.task import Task, moved
from lrtune.wire.job import Training
from lrtune.wire.results import Trial
from worker.batches import examples, mapped, split
from worker.clipping import clip
from worker.compiling import Measuring, next_graph, where_it_pays
from worker.determinism import mode_of
from worker.memory import does_not_fit, give_back, out_of_memory
from worker.optimizers import build
from worker.parallel import Member, Order
from worker.sharded import require_no_weights, shard, whole_layers

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """A model, its optimizer, and how they move. `say` gets in words what it decides by itself."""

    def __init__(
        self,
        task: Task,
        trial: Trial,
        training: Training,
        device: torch.device,
        *,
        say: Callable[[str], None] = lambda _: None,
        member: Member | None = None,
        kept_for: Task | None = None,  # the task whose trials share what is compiled, where `task` is a copy of it
    ) -> None:
        self.task, self.training, self.device = task, training, device
        self.member, self._chosen, self._say = member, trial.configuration, say
        self.parts = 1  # of a batch, when it does not fit into memory at once
        self._place = torch.empty(0, device=device).device  # with its number, as tensors have it
        self.model: nn.Module = self._placed(task.model())
        self._forward, self._graphs = self.model, False  # what the task's loss sees
        if training.compile == "auto" and member is None:
            self._compile(trial, kept_for or task)
        chosen = trial.configuration
        groups = task.groups(self.model)
        fused = device.type == "cuda" and mode_of(training, device) != "exact"
        self.optimizer = build(
            chosen.optimizer, self.model, learning_rate=chosen.learning_rate, groups=groups, fused=fused
        )
        self._parameters = list(self.model.parameters())  # to go through all modules takes as long as a small layer
        if self.optimizer.averages and any(isinstance(part, _BatchNorm) for part in self.model.modules()):
            say("batch norms keep statistics of the weights that are trained, not of their average, which is measured")
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "float16")
        average = None if training.ema is None else get_ema_multi_avg_fn(training.ema)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(self.model, multi_avg_fn=average) if average else None
        if member is not None:
            if member.rank:
                torch.manual_seed(trial.seed + member.rank)  # dropout is not to be the same on every device
            self._forward = self.model if training.sharded else member.wrapped(self.model)

    def _placed(self, model: nn.Module) -> nn.Module:
        """A model on the device, or this device's share of it, which need not have the room for the whole."""
        sharded = self.training.sharded and self.member is not None
        return shard(model, self._place) if sharded else model.to(self.device)

    def _compile(self, trial: Trial, kept_for: Task) -> None:
        """Train through compiled code where that is quicker: then the model is the one whose code is compiled."""
        graphs = self.device.type == "cuda" and self.training.accumulate == 1  # they have one batch's outputs at a time
        fresh = partial(self.task.batches, trial.seed)
        measuring = Measuring(self.task, fresh, self.device, self._cast, graphs)
        how = f"{self.device} {self.training.model_dump_json()}"
        chosen = where_it_pays(self.model, measuring, of=kept_for, how=how, user=self, say=self._say)
        if chosen.module is not None and chosen.forward is not None:
            self.model, self._forward, self._graphs = chosen.module, chosen.forward, chosen.graphs

    def set_factor(self, factor: float) -> None:
        """Set the factor of the peak rate for the next step."""
        if self.member is not None:
            self.member.order(Order.STEP, factor)
        self.optimizer.set_factor(factor)

    def gradients(self, batches: Iterator[Any]) -> Tensor:
        """Take the next batches and leave their gradients; answers their mean loss."""
        taken = [next(batches) for _ in range(self.training.accumulate)]
        if self.training.sharded and self.member is not None:
            self.member.share(self.model.buffers())  # else done where the model is wrapped
        while True:
            drawn = _generators(self.device)
            self.optimizer.zero_grad()
            try:
                return self._backward(taken)
            except RuntimeError as error:
                if not out_of_memory(error) or self.member is not None:
                    raise
                why = self.does_not_fit(error)
            self._halve(examples(taken[0]), why)  # out here the error is gone, and with it what its frames held
            _restore(drawn, self.device)

    def apply(self) -> None:
        """Clip the gradients and move the weights, and their average with them."""
        for part in self.optimizer.parts:
            self._scaler.unscale_(part)
        clip(self._parameters, self._chosen)
        for part in self.optimizer.parts:
            self._scaler.step(part)
        self._scaler.update()
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)

    def evaluate(self) -> dict[str, float]:
        """Every metric, measured in eval mode without gradients, of the averaged weights where they are asked for."""
        if self.training.sharded and self.member is not None:
            self.member.order(Order.MEASURE)  # no device has a whole layer by itself
            self.member.share(self.model.buffers())  # or what they do there, by these, might part them
        model = self.model if self._averaged is None else self._averaged.module
        model.eval()
        with torch.no_grad(), self._cast(), self.optimizer.measured(), whole_layers():
            measured = {name: float(value) for name, value in self.task.evaluate(model).items()}
        model.train()
        if missing := [name for name in self.task.metrics if name not in measured]:
            raise TaskError(f"evaluate did not give {', '.join(missing)}, which the task says it measures")
        return measured

    def state(self) -> dict[str, Any]:
        """What has to be kept besides the model and the optimizer, to go on later as if nothing had happened."""
        averaged = {} if self._averaged is None else self._averaged.state_dict()
        return {"scaler": self._scaler.state_dict(), "averaged": averaged}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._scaler.load_state_dict(state["scaler"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])

    def does_not_fit(self, error: BaseException) -> str:
        """Why there is not enough memory, in words with the numbers."""
        return does_not_fit(error, self.device, self.model, self._chosen.optimizer.as_dict()["name"])

    def _cast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES.get(self.training.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def _backward(self, batches: Sequence[Any]) -> Tensor:
        """The gradients of some batches, each in as many parts as memory asks for; their mean loss."""
        own = [(share / len(batches), part) for batch in batches for share, part in self._share(batch)]
        losses = []
        for place, (weight, part) in enumerate(own):
            spread, last = self._forward, place == len(own) - 1  # devices meet once a step, over the last of its parts
            with spread.no_sync() if isinstance(spread, DistributedDataParallel) and not last else nullcontext():
                losses.append(self._part(part, weight))
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return loss if self.member is None else self.member.summed(loss)

    def _share(self, batch: Any) -> list[tuple[float, Any]]:
        """The parts of a batch that this process trains, each with its share of the examples."""
        if self.member is None:
            return split(batch, self.parts)
        shares = split(batch, self.member.size)
        if len(shares) < self.member.size:
            raise TaskError(f"training.devices: found {self.member.size}; a batch has only {len(shares)} examples")
        return [shares[self.member.rank]]

    def _part(self, part: Any, weight: float) -> Tensor:
        """Add the gradients of a part of a batch; its share of the loss."""
        if self._graphs:
            next_graph()
        with self._cast(), whole_layers():
            loss = self.task.loss(self._forward, self._here(part))
        require_no_weights(loss)
        loss = loss if weight == 1 else loss * weight
        several = 1 if self.member is None else self.member.size  # whose gradients will be averaged
        self._scaler.scale(loss * several if several > 1 else loss).backward()
        answer: Tensor = loss.detach()
        return answer.clone() if self._graphs else answer  # the next step writes where a graph's outputs lie

    def _here(self, batch: Any) -> Any:
        """A batch on the device; tensors go there without waiting, whatever else it is made of moves as it can."""
        if type(batch) in (tuple, list) and all(type(one) is Tensor and one.device == self._place for one in batch):
            return batch  # as most are: to look is quicker than to move what is there
        if self.device.type == "cuda":
            batch = mapped(batch, lambda tensor: tensor.to(self.device, non_blocking=True))
        return moved(batch, self.device)

    def _halve(self, size: int, why: str) -> None:
        """Train batches in twice as many parts from here on. Raises TaskError when there is nothing left to halve."""
        if self.parts >= size:
            raise TaskError(f"a single example of a batch does not fit: {why}")
        self.parts = min(2 * self.parts, size)
        if self._graphs:
            self._forward, self._graphs = self.model, False
        self.optimizer.zero_grad()
        give_back(self.device, thoroughly=True)
        self._say(f"out of memory with {size} examples at once: batches are trained in {self.parts} parts from here on")


def _generators(device: torch.device) -> list[Tensor]:
    """Where torch's generators stand."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _restore(drawn: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
