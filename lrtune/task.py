"""What a training problem has to say so that its learning rate can be tuned. It knows nothing of learning rates.

A task of your own is a class that inherits from `Task`: `docs/tutorials/your-task.md` writes one, `lrtune check` tries
it. It must say its `model` and its `loss`, and either its two sets of examples or its own `batches` and `evaluate`; the
rest has a default. The trainer seeds everything before `model()`, moves the model and every batch to the device, and
puts the model in eval mode without gradients around `evaluate`. A model is any `torch.nn.Module`, a loss any scalar
`torch.Tensor`; importing this needs no torch.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeAlias, cast

from pydantic import BaseModel

from lrtune.errors import TaskError
from lrtune.wire.configuration import Strict

# torch's types under our words, because this ring does not import torch.
Model: TypeAlias = Any
Batch: TypeAlias = Any
Loss: TypeAlias = Any
Device: TypeAlias = Any
BATCH_SIZE = 32  # of a task whose parameters have no `batch_size`


class Examples(Protocol):
    """Examples by place: a list, a torch `Dataset`, a `TensorDataset`, a Hugging Face dataset."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, place: int, /) -> Any:
        """One of them."""


class NoParams(Strict):
    """A task without parameters."""


class Task(ABC):
    """A model, its data, its loss and what is measured on data it has not seen. The docstring is the task's summary."""

    Params: ClassVar[type[BaseModel]] = NoParams
    """What a job may set, each field with its default; it is checked when a job is submitted."""

    metrics: Collection[str] = {"val_loss": "minimize"}
    """The names that `evaluate` answers with, each with its goal; a job is about the first of them unless it says."""

    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}
    """The lowest and the highest value of a metric, None where there is none: `{"val_loss": (0, None)}` for a cross
    entropy. A metric that is left out may have any value."""

    steps: ClassVar[int] = 1000
    """The horizon of a job that names none."""

    def __init__(self, params: Any = None, data_dir: Path = Path()) -> None:
        self.params = self.Params() if params is None else params
        self.data_dir = data_dir

    @abstractmethod
    def model(self) -> Model:
        """A new model; its initial weights are to come from torch's global generator, which is seeded before."""

    @abstractmethod
    def loss(self, model: Model, batch: Batch) -> Loss:
        """The loss of one batch, ready for `backward()`."""

    def train_set(self) -> Examples:
        """The examples to train on; asked for once."""
        raise NotImplementedError(f"{type(self).__name__} needs train_set(), or batches() and steps_per_epoch")

    def validation_set(self) -> Examples:
        """The examples to measure on; asked for once."""
        raise NotImplementedError(f"{type(self).__name__} needs validation_set(), or its own evaluate()")

    def collate(self, examples: Sequence[Any]) -> Batch:
        """One batch of some examples: torch's own way, which stacks tensors, numbers and arrays."""
        from torch.utils.data import default_collate

        return default_collate(list(examples))

    def batches(self, seed: int) -> Iterator[Batch]:
        """Batches without end, the same ones for the same seed: every epoch is a new permutation of the examples.

        They are made of tensors, tuples, lists or mappings of them, or of anything that has `to(device)`.
        """
        return self._fed(seed, 0)

    def batches_from(self, seed: int, start: int) -> Iterator[Batch]:
        """The same batches without the first `start`: how a run goes on. Worth writing beside one's own `batches`."""
        if type(self).batches is Task.batches:
            return self._fed(seed, start)
        batches = self.batches(seed)
        next(itertools.islice(batches, start, start), None)
        return batches

    def digest(self) -> Any:
        """What tells this task from every other: parameters, data and code, in values; None leaves it to the worker.

        Two tasks of the same digest share their training. The worker reads the attributes of the task and the source
        of its package; what it cannot read keeps training from being shared at all.
        """
        return None

    @cached_property
    def steps_per_epoch(self) -> int:
        """How many batches go once through the training data; a last partial one is dropped."""
        return max(1, len(self._train) // self._batch_size)

    def measure(self, model: Model, batch: Batch) -> Mapping[str, Any]:
        """Every metric of one batch of validation examples, as a mean over them; numbers or tensors of one element."""
        return {"val_loss": self.loss(model, batch)}

    def evaluate(self, model: Model) -> Mapping[str, float]:
        """Every metric, on data that is not trained on: the means of `measure` over the validation examples."""
        from lrtune.feeding import Straight, read

        device, count, size = next(model.parameters()).device, len(self._validation), self._batch_size
        found: dict[str, tuple[list[Any], list[int]]] = {}
        for start, batch in zip(
            range(0, count, size), self._feed(self._validation, device).of(Straight(count, size)), strict=True
        ):
            for name, value in self.measure(model, moved(batch, device)).items():
                values, sizes = found.setdefault(name, ([], []))
                values.append(value)
                sizes.append(min(size, count - start))
        means = {name: zip(read(values), sizes, strict=True) for name, (values, sizes) in found.items()}
        return {name: sum(value * many for value, many in each) / count for name, each in means.items()}

    def groups(self, model: Model) -> Iterable[Mapping[str, Any]]:
        """The parameters in groups, as torch's optimizers take them; `rate` is a group's multiple of the peak rate.

        `[{"params": model.body.parameters(), "rate": 0.1}, {"params": model.head.parameters()}]` trains the body ten
        times slower. A group may also set an option of the optimizer, such as `weight_decay`. Parameters without
        `requires_grad` are frozen, and stand in no group or in any.
        """
        return [{"params": model.parameters()}]

    def to(self, device: Device) -> Self:
        """The task as it works on a device. A task that keeps its data in memory may answer with a copy over there."""
        self._feeds["device"] = device
        return self

    @cached_property
    def _train(self) -> Examples:
        return _by_place("train_set", self.train_set(), "batches() and steps_per_epoch")

    @cached_property
    def _validation(self) -> Examples:
        return _by_place("validation_set", self.validation_set(), "evaluate()")

    @cached_property
    def _feeds(self) -> dict[Any, Any]:
        """How each set is fed on each device, kept from trial to trial; a cached property, so no part of a digest."""
        return {}

    def _fed(self, seed: int, start: int) -> Iterator[Batch]:
        """The training batches from number `start` on, near the device of `to`."""
        import torch

        from lrtune.feeding import Order

        if not len(self._train):
            raise TaskError("train_set: found no examples; accepted is at least one")
        feed = self._feed(self._train, self._feeds.get("device", torch.device("cpu")))
        yield from feed.of(Order(len(self._train), self._batch_size, seed=seed, start=start))

    def _feed(self, examples: Examples, device: Device) -> Any:
        from lrtune.feeding import Feed

        key = id(examples), str(device)  # they live as long as the task
        if key not in self._feeds:
            self._feeds[key] = Feed(examples, None if type(self).collate is Task.collate else self.collate, device)
        return self._feeds[key]

    def __getstate__(self) -> dict[str, Any]:
        """What goes to processes that read examples: not the processes."""
        return {name: value for name, value in vars(self).items() if name != "_feeds"}

    @property
    def _batch_size(self) -> int:
        return int(getattr(self.params, "batch_size", BATCH_SIZE))


def _by_place(name: str, examples: Any, own: str) -> Examples:
    """Examples that have places, which the order of the seed needs. Raises TaskError for a stream."""
    stream = any(cls.__name__ == "IterableDataset" for cls in type(examples).__mro__)  # torch's, Hugging Face's
    if not stream and hasattr(examples, "__len__") and hasattr(examples, "__getitem__"):
        return cast(Examples, examples)
    kind = type(examples).__name__
    raise TaskError(
        f"{name}: found a {kind}, whose examples have no places; accepted is what has a length and takes "
        f"places, such as a list or a torch Dataset; of a stream write your own {own}"
    )


def moved(batch: Batch, device: Device) -> Batch:
    """A batch on the device, whatever it is made of."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(part, device) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(part, device) for part in batch)
    return batch
