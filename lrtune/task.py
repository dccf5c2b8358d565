"""What a training problem has to say so that its learning rate can be tuned. It knows nothing of learning rates.

Write one class that inherits from `Task`; `worker/tasks/` has four to look at. The trainer moves the model and every
batch to the device, seeds everything before `model()`, and puts the model in eval mode without gradients around
`evaluate`. Nothing here imports torch: a model is any `torch.nn.Module`, a loss any scalar `torch.Tensor`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

# torch's types under our words, because this ring does not import torch.
Model: TypeAlias = Any
Batch: TypeAlias = Any
Loss: TypeAlias = Any
Device: TypeAlias = Any


class Task(Protocol):
    """A model, its data, its loss and what is measured on data it has not seen."""

    metrics: Sequence[str]
    """The names that `evaluate` answers with; one of them is the metric of a job."""

    steps_per_epoch: int
    """How many batches go once through the training data."""

    @abstractmethod
    def model(self) -> Model:
        """A new model; its initial weights are to come from torch's global generator, which is seeded before."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Batches without end, the same ones for the same seed: tensors, or tuples, lists or mappings of them."""

    @abstractmethod
    def loss(self, model: Model, batch: Batch) -> Loss:
        """The loss of one batch, ready for `backward()`."""

    @abstractmethod
    def evaluate(self, model: Model) -> Mapping[str, float]:
        """Every metric, on data that is not trained on."""

    def to(self, device: Device) -> Self:  # noqa: ARG002
        """The task as it works on a device. A task that keeps its data in memory may answer with a copy over there."""
        return self
