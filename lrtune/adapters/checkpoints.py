"""What a checkpoint of a loop's trial holds, taken and put back.

That is what `state_dict` gives of whatever a loop names (model, optimizer, scheduler, scaler, batches) and the random
generators, so that a training that goes on from it is the one that would have gone on without.
"""

import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from lrtune.adapters.arrays import packed, unpacked
from lrtune.adapters.folder import BROKEN, Broken, Folder, first_line, save_safely
from lrtune.adapters.team import Alone

log = logging.getLogger("lrtune.loop")
B = TypeVar("B")


class Keeps(Protocol):
    """What a checkpoint can hold: a module, an optimizer, a scheduler, a scaler, batches."""

    def state_dict(self) -> dict[str, Any]:
        """What there is to keep."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """As it was kept."""


class Keeper:
    """The checkpoint that one trial goes on from, and what its next one is to hold.

    Of a process alone it is a file. A team's is a directory in which each process has a file of its own, and what is
    sharded over them lies as torch's distributed checkpoint has it.
    """

    def __init__(self, folder: Path | None, trial: int, checkpoint: str | None, team: Alone | None = None) -> None:
        self._folder, self._trial, self._checkpoint, self._team = folder, trial, checkpoint, team or Alone()
        self._objects: dict[str, Keeps] = {}
        self._state: dict[str, Any] = {}
        self._sharded = False

    @property
    def ready(self) -> bool:
        """Whether there is something to keep, and a place for it."""
        return self._folder is not None and bool(self._objects)

    def batches(self, loader: Iterable[B]) -> "Batches[B]":
        """Batches from the place that was kept, and to be kept."""
        made = self._objects["batches"] = Batches(loader)
        if self._state:
            put_back(self._state, {"batches": made}, among=self._objects)
        return made

    def read(self, objects: Mapping[str, Any]) -> bool:
        """Read what was kept of these objects; False where one cannot. Raises TypeError for what keeps nothing."""
        refuse_what_keeps_nothing(objects)
        self._objects |= {
            name: RandomGenerator(kept) if is_random(kept) else bare(kept) for name, kept in objects.items()
        }
        self._sharded = spread(self._objects.values())
        if self._checkpoint is None or self._folder is None:
            return True
        folder, name = Folder(self._folder), self._checkpoint
        return self._in_all(lambda: self._found(folder, name)) and (
            not self._sharded or self._in_all(lambda: self._joined(folder.path / name))
        )

    def put(self) -> None:
        """Bring the objects to what was read, if anything was. Raises Broken where it does not fit."""
        if self._state:
            put_back(self._state, self._objects, among={"batches": None})

    def _in_all(self, read: Callable[[], dict[str, Any]]) -> bool:
        """Whether every process could read."""
        broken = ""
        try:
            self._state = read()
        except Broken as error:
            broken = str(error)
        said = [one for one in self._team.gathered(broken) if one]
        if said:
            self._state = {}
            log.warning("trial %s begins again: %s", self._trial, broken or said[0])
        return not said

    def write(self, step: int) -> str:
        """Keep everything after a step; what that is called. Raises Broken."""
        if self._folder is None:
            raise Broken("there is no folder for checkpoints")
        folder = Folder(self._folder)
        state = state_of(step, self._objects)
        if self._team.size == 1 and not self._sharded:
            return folder.write(self._trial, step, state)
        return folder.write_directory(self._trial, step, lambda path: self._fill(path, state), team=self._team)

    def _found(self, folder: Folder, name: str) -> dict[str, Any]:
        """The state of this process; the first one looks whether the others' are whole, too."""
        size = self._team.size
        if name.endswith(".pt"):
            if size > 1:
                raise Broken(f"the checkpoint {name} was kept by 1 process, and this run has {size}")
            return folder.read(name)
        if self._team.rank == 0:
            folder.directory(name, processes=size)
        return folder.read(name, self._own)

    def _joined(self, path: Path) -> dict[str, Any]:
        """The state with its shards."""
        from lrtune.adapters import sharded

        return sharded.load(self._state, path, self._objects.values(), self._team.group)

    def _fill(self, path: Path, state: dict[str, Any]) -> None:
        if self._sharded:
            from lrtune.adapters import sharded

            state = sharded.save(state, path, self._team.group)
        save_safely(state, path / self._own)

    @property
    def _own(self) -> str:
        return f"rank-{self._team.rank}.pt"


class Batches(Generic[B]):
    """The batches of a loader, epoch after epoch, from a place that a checkpoint can keep.

    An epoch begins with the random generators as they are, so that a loader that shuffles does so again in the same
    order; the batches before the place are loaded and left out.
    """

    def __init__(self, loader: Iterable[B]) -> None:
        self.loader, self.epoch, self.place = loader, 0, 0
        self._begun: dict[str, Any] = {}
        self._iterator: Iterator[B] | None = None

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._iterator is None:
            self._begin(generators(generators_of(self.loader)))
        for last in (False, True):
            assert self._iterator is not None  # noqa: S101 - for mypy
            for batch in self._iterator:
                self.place += 1
                return batch
            if last or self.place == 0:
                break
            self.epoch, self.place = self.epoch + 1, 0
            self._begin(generators(generators_of(self.loader)))
        raise ValueError("found a loader without batches; accepted is one that can be gone through again and again")

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the place in it, and the random generators as it began."""
        return {"epoch": self.epoch, "place": self.place, "begun": self._begun}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go to the place. Leaves the random generators wherever that brings them."""
        self.epoch, place = state["epoch"], state["place"]
        if not state["begun"]:
            return
        set_generators(state["begun"], generators_of(self.loader))
        self._begin(state["begun"])
        for _ in range(place):
            next(self)

    def _begin(self, begun: dict[str, Any]) -> None:
        self._begun, self.place = begun, 0
        for part in (self.loader, getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(self.epoch)
        self._iterator = iter(self.loader)


class RandomGenerator:
    """A random generator of the loop's own, torch's, NumPy's or Python's, each of which calls its state otherwise."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        one = self._generator
        if isinstance(one, torch.Generator):
            return {"state": one.get_state()}
        return {"state": one.getstate() if isinstance(one, random.Random) else one.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Draw on from there."""
        one, kept = self._generator, state["state"]
        if isinstance(one, torch.Generator):
            one.set_state(kept)
        elif isinstance(one, random.Random):
            one.setstate(kept)
        else:
            one.bit_generator.state = kept


def is_random(kept: object) -> bool:
    """Whether it is a random generator, such as one that a loop draws its batches with."""
    numpy = sys.modules.get("numpy")
    return isinstance(kept, torch.Generator | random.Random | (numpy.random.Generator if numpy else torch.Generator))


def state_of(step: int, objects: Mapping[str, Keeps]) -> dict[str, Any]:
    """Everything that a training is after a step."""
    states = {name: packed(kept.state_dict()) for name, kept in objects.items()}
    return {"step": step, "objects": states, "generators": generators()}


def put_back(
    state: Mapping[str, Any], objects: Mapping[str, Keeps], *, among: Mapping[str, object] | None = None
) -> int:
    """Bring a training to a state, and say after which step that is. Raises Broken where it belongs to another one.

    `among` names what else there is or will be, and is brought to it by another call.
    """
    states = state["objects"]
    if not set(objects) <= set(states) <= {*objects, *(among or ())}:
        had, given = (", ".join(sorted(names)) or "nothing" for names in (states, objects))
        raise Broken(f"the checkpoint has {had}; `restore` was given {given}")
    for name, kept in objects.items():
        try:
            kept.load_state_dict(unpacked(states[name]))
        except BROKEN as error:
            raise Broken(f"{name}: the checkpoint does not fit: {first_line(error)}") from error
    set_generators(state["generators"])
    return int(state["step"])


def bare(kept: Any) -> Any:
    """A model without what is around it (`torch.compile`, DistributedDataParallel), which changes the names in it.

    So it is kept and found under the same names, whether it was wrapped before `restore` or after.
    """
    around = torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel
    while isinstance(kept, torch.nn.Module) and (hasattr(kept, "_orig_mod") or isinstance(kept, around)):
        kept = kept.module if isinstance(kept, around) else kept._orig_mod
    return kept


def spread(objects: Iterable[object]) -> bool:
    """Whether a model among these has parameters that are spread over processes (DTensor)."""
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from lrtune.adapters import sharded

    return sharded.is_sharded(objects)


def refuse_what_keeps_nothing(objects: Mapping[str, object]) -> None:
    """Raises TypeError for what has no state to keep, such as a loader whose place nobody knows."""
    for name, kept in objects.items():
        if not is_random(kept) and not all(
            callable(getattr(kept, verb, None)) for verb in ("state_dict", "load_state_dict")
        ):
            hint = "; for the batches of a loader: `trial.batches(loader)`" if hasattr(kept, "__iter__") else ""
            raise TypeError(
                f"{name}: found {type(kept).__name__}; accepted is what has state_dict and load_state_dict{hint}"
            )


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random generators that a loader, and the samplers in it, have of their own."""
    found, parts = list[torch.Generator](), [loader]
    for part in parts:
        for name in ("generator", "synchronized_generator"):  # the latter is Accelerate's
            one = getattr(part, name, None)
            if isinstance(one, torch.Generator) and not any(one is other for other in found):
                found.append(one)
        inside = (getattr(part, name, None) for name in ("sampler", "batch_sampler"))
        parts += [one for one in inside if one is not None and not any(one is other for other in parts)]
    return found


def generators(own: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """Every random generator: Python's, NumPy's where it is used, torch's, the devices', and some more."""
    version, internal, gauss = random.getstate()
    found: dict[str, Any] = {"python": [version, list(internal), gauss], "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        kind, key, *rest = numpy.random.get_state()
        found["numpy"] = [str(kind), [int(word) for word in key], int(rest[0]), int(rest[1]), float(rest[2])]
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found | {"own": [one.get_state() for one in own]}


def set_generators(kept: Mapping[str, Any], own: Sequence[torch.Generator] = ()) -> None:
    """Bring the random generators to where they were."""
    version, internal, gauss = kept["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(kept["torch"])
    if "numpy" in kept and (numpy := sys.modules.get("numpy")):
        kind, key, *rest = kept["numpy"]
        numpy.random.set_state((kind, key, *rest))
    if "cuda" in kept and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(kept["cuda"])
    for one, state in zip(own, kept["own"], strict=False):
        one.set_state(state)
