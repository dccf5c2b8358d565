"""`torch.compile` where it pays: measured on this task and this device, not guessed, and once for all its trials.

Trials of one task have the same shapes. So what was measured and compiled is kept in this process, and the next trial's
fresh weights are written into the module whose code is compiled. A model that is built otherwise than the one before is
compiled anew, out of torch's own cache on disk (`LRTUNE_COMPILE_DIR`) where that has it. The ways are timed on copies,
with batches of their own and the generators put back: measuring leaves no trace in the training.
"""

import copy
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lrtune.task import Task, moved

WARM, TIMED, ROUNDS = 3, 5, 3  # steps before, steps of a round, rounds, of which the quickest counts
MARGIN = 0.98  # of the time without: a gain that is less than this is as likely noise
MOST = 2  # tasks of which something is kept, those trained last
DEEPEST = 6  # attributes within attributes that are compared
APART = ("_parameters", "_buffers", "_modules", "training")  # of a module: compared by themselves, or put right
NOTED = "_compile_kwargs"  # by Lightning, which takes the place of `torch.compile` where it has been imported
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, set, frozenset)
Batches = Callable[[], Iterator[Any]]
Compiler = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What it takes to time a step: the task's loss, batches, the device and the precision."""

    task: Task
    batches: Batches
    device: torch.device
    cast: Callable[[], AbstractContextManager[Any]]
    graphs: bool  # whether CUDA graphs may be tried

    def seconds(self, forward: nn.Module) -> tuple[float, float]:
        """Seconds of one forward and backward pass, and of the first ones in all."""
        batches, start = self.batches(), time.perf_counter()
        self._pass(forward, batches, WARM)
        warm, found = time.perf_counter() - start, []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            self._pass(forward, batches, TIMED)
            found.append((time.perf_counter() - start) / TIMED)
        return min(found), warm

    def _pass(self, forward: nn.Module, batches: Iterator[Any], times: int) -> None:
        for _ in range(times):
            forward.zero_grad()
            next_graph()
            with self.cast():
                loss = self.task.loss(forward, moved(next(batches), self.device))
            loss.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Chosen:
    """How a task's models are trained on a device: as they are, or through the compiled code of one that is kept."""

    def __init__(self, task: Task, module: nn.Module | None, forward: nn.Module | None, *, graphs: bool) -> None:
        self.task, self.module, self.forward, self.graphs = task, module, forward, graphs
        self.user: Callable[[], object] = lambda: None

    def take(self, fresh: nn.Module, user: object) -> bool:
        """Give the module a fresh model's weights; False where somebody trains it, or it is another kind of model."""
        if self.module is None:
            return True
        if self.user() is not None or not alike(self.module, fresh):
            return False
        with torch.no_grad():
            for ours, theirs in zip(_tensors(self.module), _tensors(fresh), strict=True):
                ours[1].copy_(theirs[1])
                ours[1].grad = None
        for mine, new in zip(self.module.modules(), fresh.modules(), strict=True):
            mine.training = new.training
        self.user = weakref.ref(user)
        return True

    def rest(self) -> None:
        """Hold no gradients while nobody trains it."""
        if self.module is not None and self.user() is None:
            for parameter in self.module.parameters():
                parameter.grad = None


_KEPT = OrderedDict[tuple[int, str], Chosen]()


def where_it_pays(
    model: nn.Module, measuring: Measuring, *, of: Task, how: str, user: object, say: Callable[[str], None]
) -> Chosen:
    """How to train a model of the task `of`, trained as `how` says: measured and said where that is not known yet."""
    key = (id(of), how)
    chosen = _KEPT.get(key)
    if chosen is None or not chosen.take(model, user):
        cuda = [measuring.device] if measuring.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            chosen = _measured(model, measuring, of, say)
        if not chosen.take(model, user):
            say("torch.compile is left out: the model keeps more than weights and buffers from step to step")
            chosen = Chosen(of, None, None, graphs=False)
        _KEPT[key] = chosen
    _KEPT.move_to_end(key)
    while len(_KEPT) > MOST:
        _KEPT.popitem(last=False)
    return chosen


def rest() -> None:
    """Between trials: what is kept takes no more room than it must."""
    for chosen in _KEPT.values():
        chosen.rest()


def compiled(model: nn.Module, **options: Any) -> nn.Module:
    """The same weights behind compiled code."""
    return cast(nn.Module, torch.compile(model, **options))


def next_graph() -> None:
    """What the CUDA graphs of the step before have answered is needed no more."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _measured(model: nn.Module, measuring: Measuring, of: Task, say: Callable[[str], None]) -> Chosen:
    """The quickest way on a copy of the model."""
    ways: dict[str, Compiler] = {"with": compiled}
    if measuring.graphs:
        ways["with CUDA graphs"] = partial(compiled, mode="reduce-overhead")
    found, numbers = dict[str, tuple[float, nn.Module, nn.Module]](), []
    try:
        plain, _ = measuring.seconds(copy.deepcopy(model))
        numbers.append(f"{1000 * plain:.3g} ms a step without")
        for name, way in ways.items():
            spare = copy.deepcopy(model)
            forward = way(spare)
            seconds, cost = measuring.seconds(forward)
            found[name] = seconds, spare, forward
            numbers.append(f"{1000 * seconds:.3g} ms {name}, {cost:.2g} s to compile")
    except Exception as error:  # whatever a compiler may raise, the model trains without it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not found:
            say(f"torch.compile does not work here, trained without it: {first}")
            return Chosen(of, None, None, graphs=False)
        numbers.append(f"CUDA graphs do not work: {first}")
    name = min(found, key=lambda one: found[one][0])
    quick, module, forward = found[name]
    pays = quick < MARGIN * plain
    verdict = f"pays, {name.removeprefix('with ')}" if name != "with" and pays else "pays" if pays else "does not pay"
    say(f"torch.compile {verdict}: {', '.join(numbers)}, once for all trials of this task in this worker")
    return Chosen(of, module, forward, graphs=name != "with") if pays else Chosen(of, None, None, graphs=False)


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether a used model is built as a fresh one, down to what it keeps beside weights and buffers: these may differ.

    Flags that only the used one has are the compiler's marks.
    """
    both = list(one.named_modules()), list(other.named_modules())
    if [(name, type(module)) for name, module in both[0]] != [(name, type(module)) for name, module in both[1]]:
        return False
    if [_shape(*each) for each in _tensors(one)] != [_shape(*each) for each in _tensors(other)]:
        return False
    pairs = zip(one.modules(), other.modules(), strict=True)
    return all(_same(_rest(a, marks=vars(a).keys() - vars(b).keys()), _rest(b), DEEPEST) for a, b in pairs)


def _rest(module: nn.Module, marks: Set[str] = frozenset()) -> dict[str, Any]:
    """What a module has beside its weights, buffers, parts and marks."""
    found = ((name, value) for name, value in vars(module).items() if name not in APART)
    return {n: v for n, v in found if not (n in marks and (n == NOTED or (n.startswith("_") and isinstance(v, bool))))}


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once: so tied weights are tied alike in models that have the same."""
    return [*model.named_parameters(), *model.named_buffers()]


def _shape(name: str, tensor: Tensor) -> tuple[Any, ...]:
    return name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad


def _same(one: Any, other: Any, depth: int) -> bool:
    """Whether two values are equal, as far as can be seen: what cannot be is not."""
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0 or isinstance(one, Tensor):
        return False
    if isinstance(one, PLAIN):
        return bool(one == other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b, depth - 1) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(_same(one[key], other[key], depth - 1) for key in one)
    if hasattr(one, "__code__"):
        return one.__code__ is other.__code__ and one.__closure__ is other.__closure__ is None
    return hasattr(one, "__dict__") and _same(vars(one), vars(other), depth - 1)
