"""How a task's examples become batches: rows of tensors that stay where the model is, or else torch's `DataLoader`.

Which examples a batch has depends on the seed and its number alone, so a run goes on at any batch without reading those
before it. Examples that are tensors and fit are put on the device once, for all trials. What has to be read or made is
read by processes of their own where a GPU would wait for it; there everything random in an example comes from the seed
and the batch's number, so it is the same however many processes there are. On a CPU this process reads them itself.
"""

import logging
import multiprocessing
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate, get_worker_info

MOST_WORKERS = 4  # processes that read, for each loader: more than this is seldom quicker, and others want cores, too
SHARE = 0.25  # of the free memory of a device, or the host, that copies of examples may take
SIGNATURES = (bool, int, float)  # what collates to a number; anything else that is no tensor is left to the loader
Drawn = tuple[int, int, list[int]]  # the seed, the batch's number, the places of its examples
Epoch = tuple[list[int], list[tuple[int, int, int]]]  # its places, and of each batch the number, first and last place
Collate = Callable[[Sequence[Any]], Any]
log = logging.getLogger("lrtune.worker")


class Order:
    """The places of each batch: every epoch a new permutation by the seed, a last partial batch left out."""

    def __init__(self, count: int, size: int, *, seed: int, start: int) -> None:
        self._count, self._size, self.seed, self._start = count, min(size, count), seed, start

    def epochs(self) -> Iterator[Epoch]:
        """From batch number `start` on, without end."""
        count, size = self._count, self._size
        each = count // size
        epoch, done = divmod(self._start, each)
        while True:
            places = list(range(count))
            random.Random(f"{self.seed}:{epoch}").shuffle(places)
            yield places, [(epoch * each + one, one * size, (one + 1) * size) for one in range(done, each)]
            epoch, done = epoch + 1, 0


class Straight:
    """The places of each batch, in order and once; the last one may be smaller."""

    seed = 0

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size

    def epochs(self) -> Iterator[Epoch]:
        """One."""
        count, size = self._count, self._size
        cuts = [(number, low, min(low + size, count)) for number, low in enumerate(range(0, count, size))]
        yield list(range(count)), cuts


class Batches:
    """Examples as a set of batches, each made when it is asked for."""

    def __init__(self, examples: Any, collate: Collate) -> None:
        self._examples, self._collate = examples, collate

    def __getitem__(self, drawn: Drawn) -> Any:
        seed, number, places = drawn
        if get_worker_info() is not None:
            _seed(f"{seed}:{number}")
        several = getattr(self._examples, "__getitems__", None)
        return self._collate(several(places) if several else [self._examples[place] for place in places])


class Feed:
    """The batches of one set of examples for one device; `collate` is None where they are stacked as torch does it."""

    def __init__(self, examples: Any, collate: Collate | None, device: torch.device) -> None:
        self._batches = Batches(examples, collate or _stacked)
        self._device = device if device.type == "cuda" else torch.device("cpu")
        self._rows = None if collate else rows(examples, self._device)
        self._idle = list[DataLoader[Any]]()
        self._readers = 0 if self._rows is not None else readers(self._device, self._batches)

    def of(self, order: Order | Straight) -> Iterator[Any]:
        """The batches of an order."""
        return self._cut(order) if self._rows is not None else self._loaded(order)

    def _cut(self, order: Order | Straight) -> Iterator[Any]:
        """Rows of the tensors that are there; the places of an epoch go to the device in one piece."""
        for places, cuts in order.epochs():
            every = sent(torch.tensor(places), self._device)
            for _, low, high in cuts:
                at = every[low:high]
                yield _mapped(self._rows, lambda tensor, at=at: tensor[at.to(tensor.device)])  # type: ignore[misc]

    def _loaded(self, order: Order | Straight) -> Iterator[Any]:
        """What a loader reads; one with processes is kept for the next run, and its processes with it."""
        loader = self._idle.pop() if self._idle else self._loader()
        loader.sampler.order = order  # type: ignore[attr-defined]
        try:
            yield from loader
        finally:
            if self._readers:
                self._idle.append(loader)

    def _loader(self) -> DataLoader[Any]:
        several = self._readers > 0
        return DataLoader(
            self._batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=_Ordered(),
            collate_fn=_as_it_is,
            num_workers=self._readers,
            persistent_workers=several,
            multiprocessing_context="forkserver" if several else None,  # a fork would take threads' locks along
            pin_memory=several and self._device.type == "cuda",
            generator=torch.Generator(),  # not the global one, which is the training's
        )


class _Ordered:
    """A sampler whose order can be changed between two runs."""

    order: Order | Straight

    def __iter__(self) -> Iterator[Drawn]:
        for places, cuts in self.order.epochs():
            for number, low, high in cuts:
                yield self.order.seed, number, places[low:high]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on its way to a device, without waiting for it to arrive."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def rows(examples: Any, device: torch.device) -> Any:
    """All examples as one batch on a device; None for those that are no tensors or numbers alike, or do not fit."""
    try:
        whole = _whole(examples)
    except Exception:  # what cannot be stacked is for the loader to say, in the batch where it is
        return None
    if whole is None:
        return None
    if device.type == "cuda" and sum(one.nbytes for one in _tensors(whole) if not one.is_cuda) > SHARE * _free(device):
        return None
    return _mapped(whole, lambda tensor: tensor.to(device) if tensor.device.type == "cpu" else tensor)


def _whole(examples: Any) -> Any:
    """The batch of all examples that lie in memory already, made as `default_collate` makes one."""
    if type(examples) is TensorDataset:
        tensors = list(examples.tensors)
        return tensors if all(map(_plain, tensors)) else None
    if type(examples) is Subset:
        inner = _whole(examples.dataset)
        if inner is None or not _copied(inner, 1):
            return None
        at = torch.tensor(list(examples.indices))
        return _mapped(inner, lambda tensor: tensor[at.to(tensor.device)])
    if type(examples) in (list, tuple) and len({_signature(one) for one in examples} | {None}) == 2:
        one = default_collate(list(examples[:1]))
        return default_collate(list(examples)) if _copied(one, len(examples)) else None
    return None


def _copied(batch: Any, times: int) -> bool:
    """Whether there is room for so many copies of a batch in the host's memory."""
    return times * sum(tensor.nbytes for tensor in _tensors(batch)) <= SHARE * _free(torch.device("cpu"))


def _plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and not tensor.requires_grad and tensor.is_contiguous() and tensor.dim() > 0


def _signature(example: Any) -> Any:
    """What examples must have in common to be rows; None where they cannot be."""
    if type(example) is Tensor:
        plain = example.is_contiguous() and not example.requires_grad
        return (example.dtype, tuple(example.shape), example.device) if plain else None
    if type(example) in SIGNATURES:
        return type(example)
    if type(example).__module__ == "numpy" and getattr(getattr(example, "dtype", None), "kind", "") in "biuf":
        return type(example), example.dtype.str, example.shape
    parts = example.values() if type(example) is dict else example if type(example) in (tuple, list) else None
    if not parts:
        return None
    found = tuple(_signature(part) for part in parts)
    return None if None in found else (type(example), tuple(example) if type(example) is dict else (), found)


def readers(device: torch.device, batches: Batches) -> int:
    """How many processes read for a device: none for a CPU, whose cores train, or where they cannot have the task."""
    if device.type == "cpu" or multiprocessing.current_process().daemon:
        return 0
    cores = len(os.sched_getaffinity(0)) // max(1, torch.cuda.device_count())
    try:
        _Trying(_Nowhere()).dump(batches)
    except Exception as error:  # of whoever wrote the task: a lambda, an open file
        log.warning("examples are read by the worker itself, because they cannot be given to others: %s", error)
        return 0
    return max(0, min(MOST_WORKERS, cores - 1))


class _Trying(pickle.Pickler):
    """Finds out whether something can be pickled; tensors can be, and travel in shared memory."""

    def reducer_override(self, value: Any) -> Any:
        return (int, ()) if isinstance(value, Tensor) else NotImplemented


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def read(values: Sequence[Any]) -> list[float]:
    """Numbers, or tensors of one element, as numbers: waiting for the device once."""
    tensors = [value.detach().reshape(()) for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values) and len({(one.dtype, one.device) for one in tensors}) == 1:
        return [float(value) for value in torch.stack(tensors).tolist()]
    return [float(value) for value in values]


def _free(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


def _tensors(batch: Any) -> list[Tensor]:
    found = list[Tensor]()
    _mapped(batch, found.append)
    return found


def _mapped(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch as `default_collate` makes it, with each of its tensors changed."""
    if isinstance(batch, Mapping):
        return {key: _mapped(part, change) for key, part in batch.items()}
    if isinstance(batch, list):
        return [_mapped(part, change) for part in batch]
    return change(batch)


def _seed(words: str) -> None:
    """Seed every generator of a process that reads."""
    number = random.Random(words).getrandbits(32)
    random.seed(number)
    torch.manual_seed(number)
    try:
        import numpy as np
    except ImportError:
        return
    np.random.seed(number)


def _stacked(examples: Sequence[Any]) -> Any:
    return default_collate(list(examples))


def _as_it_is(batch: Any) -> Any:
    return batch
