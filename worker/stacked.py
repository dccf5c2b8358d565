"""Several runs of one network as one: their weights lie in one matrix, a row each, and one step moves them all.

Each lane stays a whole run (`worker/run.py`) whose weights and buffers are views of its row, so that what measures or
keeps a run works on a lane as it is. The losses come from one forward pass under `torch.vmap`. Torch's own
optimizers move weights along a direction that does not depend on the rate, by the rate: so one of them moves the whole
matrix at the highest rate of all lanes, and each row then goes its share of that way. No others are taken.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lrtune.optimizers import Optimizer
from lrtune.task import Task, moved
from lrtune.wire.configuration import Configuration
from worker.engine import DTYPES
from worker.optimizers import TORCH
from worker.run import LiveRun

HOOKS = ("_backward_hooks", "_backward_pre_hooks", "_post_accumulate_grad_hooks")  # where torch has those on gradients
ALIGNED = 32  # elements; where a parameter begins in its row, so that kernels find it where they like it


def scaled(optimizer: Optimizer) -> bool:
    """Whether the steps of an optimizer are its rate times a direction that does not depend on it."""
    return type(optimizer) in TORCH


class Apart(Exception):
    """Why these runs cannot be trained as one, in words."""


class Rows:
    """Tensors of the same shapes, those of each lane in a row of one matrix; the lanes' own become views of it."""

    def __init__(self, lanes: Sequence[Sequence[Tensor]]) -> None:
        self.shapes = [tensor.shape for tensor in lanes[0]]
        kinds = {(tensor.dtype, tensor.device) for lane in lanes for tensor in lane}
        if len(kinds) > 1 or any([tensor.shape for tensor in lane] != self.shapes for lane in lanes):
            raise Apart("their parameters differ in shape, number format or device")
        padded = [-(-shape.numel() // ALIGNED) * ALIGNED for shape in self.shapes]
        self._spans = list(pairwise(accumulate(padded, initial=0)))
        dtype, device = kinds.pop()
        self.matrix = torch.zeros(len(lanes), sum(padded), dtype=dtype, device=device)
        for row, lane in zip(self.views(), lanes, strict=True):
            for place, tensor in zip(row, lane, strict=True):
                place.copy_(tensor.detach())
        spaces = (end - begin - shape.numel() for (begin, end), shape in zip(self._spans, self.shapes, strict=True))
        self._padding = [self.matrix.new_zeros(len(lanes), space) for space in spaces]

    def views(self, matrix: Tensor | None = None) -> list[list[Tensor]]:
        """The tensors of each lane, as views of the matrix or of another one that is laid out alike."""
        columns = self.stacked(matrix)
        return [[column[lane] for column in columns] for lane in range(len(self.matrix))]

    def stacked(self, matrix: Tensor | None = None) -> list[Tensor]:
        """The tensors of all lanes, lanes first, as such views."""
        whole, lanes = (self.matrix if matrix is None else matrix), len(self.matrix)
        return [
            whole.detach()[:, begin : begin + shape.numel()].view(lanes, *shape)
            for (begin, _), shape in zip(self._spans, self.shapes, strict=True)
        ]

    def laid_out(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of all lanes, lanes first, as a matrix that is laid out alike."""
        flat = (tensor.reshape(len(self.matrix), -1) for tensor in tensors)
        return torch.cat([part for pair in zip(flat, self._padding, strict=True) for part in pair], dim=1)


class _Loss(nn.Module):
    """A task's loss as a module, so that the weights of the model can be given with each call."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any) -> Any:
        return self.task.loss(self.model, batch)


class Network:
    """The weights and buffers of all lanes, and their losses; `groups` are the rows that are trained."""

    def __init__(self, runs: Sequence[LiveRun], groups: Sequence[Sequence[Sequence[nn.Parameter]]]) -> None:
        engine = runs[0].engine
        self._loss, self._device = _Loss(engine.task, engine.model), engine.device
        self._cast = DTYPES.get(engine.training.precision)
        self.groups = [Rows(group) for group in groups]
        self.gradients = [torch.zeros_like(rows.matrix) for rows in self.groups]
        names = {id(parameter): name for name, parameter in engine.model.named_parameters()}
        for name, one in (*engine.model.named_parameters(), *engine.model.named_modules()):
            if any(getattr(one, hooks, None) for hooks in HOOKS):
                raise Apart(f"{name or 'the model'} has a hook on its gradient, and a lane has no gradient of its own")
        self._leaves: dict[str, Tensor] = {}
        for rows, group in zip(self.groups, groups, strict=True):
            for lane, weights in zip(group, rows.views(), strict=True):
                for parameter, weight in zip(lane, weights, strict=True):
                    parameter.data = weight
            for parameter, leaf in zip(group[0], rows.stacked(), strict=True):
                self._leaves[names[id(parameter)]] = leaf.requires_grad_()
        self._rest = _stacked_rest([run.engine.model for run in runs])

    def losses(self, batch: Any) -> Tensor:
        """The loss of each lane over a batch, ready for `backward`. A random number is drawn once for all lanes."""
        weights = {f"model.{name}": leaf for name, leaf in self._leaves.items()}
        rest = {f"model.{name}": tensor for name, tensor in self._rest.items()}
        given = moved(batch, self._device)

        def one(*both: dict[str, Tensor]) -> Any:
            with torch.autocast(self._device.type, dtype=self._cast, enabled=self._cast is not None):
                return functional_call(self._loss, both, (given,))

        losses: Tensor = vmap(one, randomness="same")(weights, rest)
        return losses

    def backward(self, batches: Sequence[Any]) -> Tensor:
        """Leave the gradients of some batches; the mean loss of each lane. Raises Apart for a weight without one."""
        total = torch.zeros((), device=self._device)
        for turn, batch in enumerate(batches):
            losses = self.losses(batch) / len(batches)
            if losses.dim() != 1:
                raise Apart(f"the loss of a batch is of shape {tuple(losses.shape[1:])}, not a single number")
            self._slopes(losses.sum(), first=turn == 0)
            total = total + losses.detach()
        return total

    def _slopes(self, loss: Tensor, *, first: bool) -> None:
        names = list(self._leaves)
        found = iter(torch.autograd.grad(loss, list(self._leaves.values()), allow_unused=True))
        named = dict(zip(names, found, strict=True))
        if missing := [name for name, slope in named.items() if slope is None]:
            raise Apart(f"{missing[0]} has no part in the loss")
        slopes = iter(named.values())
        for rows, gradient in zip(self.groups, self.gradients, strict=True):
            whole = rows.laid_out([next(slopes) for _ in rows.shapes])
            gradient.copy_(whole) if first else gradient.add_(whole)


def _stacked_rest(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Frozen parameters and buffers of all lanes, each lane's a view of them from here on."""
    found: dict[str, Tensor] = {}
    for name, tensor in _rest(models[0]):
        stacked = torch.stack([_at(model, name).detach() for model in models])
        for model, view in zip(models, stacked, strict=True):
            if isinstance(tensor, nn.Parameter):
                _at(model, name).data = view
            else:
                path, _, last = name.rpartition(".")
                model.get_submodule(path)._buffers[last] = view
        found[name] = stacked
    return found


def _rest(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, one) for name, one in model.named_parameters() if not one.requires_grad)
    yield from model.named_buffers()


def _at(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(path), last)
    return found


class Together:
    """One optimizer for all lanes, which takes its state from theirs, and gives it back as views of its own."""

    def __init__(self, network: Network, lanes: Sequence[torch.optim.Optimizer]) -> None:
        self._network, self._lanes = network, lanes
        self._before = [torch.empty_like(rows.matrix) for rows in network.groups]
        options = [{k: v for k, v in group.items() if k != "params"} for group in lanes[0].param_groups]
        rows = network.groups
        groups = [{**one, "params": [each.matrix]} for one, each in zip(options, rows, strict=True)]
        make: Callable[..., torch.optim.Optimizer] = type(lanes[0])
        self._optimizer = make(groups)
        self._bases = [group["lr"] for group in options]
        for place, gradient in enumerate(network.gradients):
            rows[place].matrix.grad = gradient
            self._optimizer.state[rows[place].matrix].update(self._gathered(place))

    def step(self, factor: float, shares: Tensor) -> None:
        """Move all lanes at the first one's base rate times `factor`, then each its share, (lanes, 1), of that way."""
        matrices = [rows.matrix for rows in self._network.groups]
        for group, base in zip(self._optimizer.param_groups, self._bases, strict=True):
            group["lr"] = base * factor
        for before, matrix in zip(self._before, matrices, strict=True):
            before.copy_(matrix)
        self._optimizer.step()
        for before, matrix in zip(self._before, matrices, strict=True):
            torch.lerp(before, matrix, shares.to(matrix.dtype), out=matrix)

    def give_back(self, lane: int) -> None:
        """Let a lane's own optimizer have its state, which stays right until the next step."""
        for rows, group in zip(self._network.groups, self._lanes[lane].param_groups, strict=True):
            for name, value in self._optimizer.state[rows.matrix].items():
                whole = isinstance(value, Tensor) and value.shape == rows.matrix.shape
                own = rows.views(value)[lane] if whole else [_copied(value) for _ in rows.shapes]
                for parameter, one in zip(group["params"], own, strict=True):
                    self._lanes[lane].state[parameter][name] = one

    def _gathered(self, place: int) -> dict[str, Any]:
        """The state of one group of all lanes as one. Raises Apart where counts differ."""
        lanes = [
            [lane.state.get(parameter, {}) for parameter in lane.param_groups[place]["params"]] for lane in self._lanes
        ]
        rows, found = self._network.groups[place], dict[str, Any]()
        for name, value in lanes[0][0].items():
            kept = [[one.get(name) for one in lane] for lane in lanes]
            if isinstance(value, Tensor) and value.shape == rows.shapes[0] and value.dim():
                found[name] = Rows(kept).matrix
                continue
            if any(float(one) != float(value) for lane in kept for one in lane):
                raise Apart(f"their optimizers have counted differently ({name})")
            found[name] = _copied(value)
        return found


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


class Stacked:
    """Runs as lanes, all after the same step, each with its configuration. Raises Apart where that cannot be."""

    def __init__(self, runs: Sequence[LiveRun], chosen: Sequence[Configuration]) -> None:
        parts = [run.engine.optimizer.parts for run in runs]
        if not scaled(chosen[0].optimizer):
            raise Apart(f"the steps of {type(parts[0][0]).__name__} are more than its rate times a direction")
        groups = range(len(runs[0].engine.optimizer.groups))
        self.network = Network(runs, [[run.engine.optimizer.groups[at]["params"] for run in runs] for at in groups])
        self._optimizer = Together(self.network, [one for (one,) in parts])
        self._device, self._accumulate = runs[0].engine.device, runs[0].engine.training.accumulate
        self._first = chosen[0].learning_rate
        norms, values = ([getattr(one, name) for one in chosen] for name in ("clip_norm", "clip_value"))
        self._norms, self._values = self._limits(norms), self._limits(values)

    def steps(self, batches: Iterator[Any], rates: Sequence[Sequence[float]]) -> Iterator[Tensor]:
        """Train a step at the rates of each lane, then the next: the losses, (lanes,), which stay on the device."""
        tops = [max(each) for each in rates]
        parts = [[one / top if top else 1.0 for one in each] for each, top in zip(rates, tops, strict=True)]
        shares = torch.tensor(parts, device=self._device).unsqueeze(2)
        for top, share in zip(tops, shares, strict=True):
            losses = self.network.backward([next(batches) for _ in range(self._accumulate)])
            self._clip()
            self._optimizer.step(top / self._first, share)
            yield losses

    def give_back(self, lane: int) -> None:
        """Let a lane's run be as if it had been trained alone, until the next step."""
        self._optimizer.give_back(lane)

    @torch.no_grad()
    def _clip(self) -> None:
        """As torch clips: each lane by the norm of all its gradients, or element by element."""
        gradients = self.network.gradients
        if self._norms is not None:
            norms = [torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients]
            norm = torch.linalg.vector_norm(torch.stack(norms), dim=0).unsqueeze(1)
            for gradient in gradients:
                gradient.mul_((self._norms / (norm + 1e-6)).clamp(max=1.0))
        if self._values is not None:
            for gradient in gradients:
                gradient.clamp_(-self._values, self._values)

    def _limits(self, found: Sequence[float | None]) -> Tensor | None:
        """A limit for each lane, (lanes, 1), none being infinite; None where none has one."""
        if not any(found):
            return None
        limits = [math.inf if one is None else one for one in found]
        return torch.tensor(limits, dtype=torch.float32, device=self._device).unsqueeze(1)
