"""A cohort: trials of one task and seed that differ in their rates and clips, trained in lock-step as lanes of one
network (`worker/stacked.py`).

They see the same batches and the same random numbers, as each would alone, and are measured at the same steps, because
they have the same horizon. Each has its own losses, reports, states and end; the cohort shrinks as lanes leave it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lrtune.wire.configuration import Configuration
from worker.memory import out_of_memory
from worker.snapshot import generators, put_generators
from worker.stacked import Apart, Stacked
from worker.stage import Outcome, Stage
from worker.trainer import Interrupted, go_on

ESCAPED = "escaped from inside a function being vmapped"  # what torch says of a tensor that a lane's step has left over
Drawn = tuple[dict[str, torch.Tensor], dict[str, Any]]  # where every random generator stands
READ = 10  # steps after which the losses are read, because reading them waits for the device


@dataclass(slots=True, eq=False)
class Lane:
    """One trial of a cohort: its configuration, its stage, and why it should stop now, or None.

    It is made right after its run, whose `generators` it keeps: others may be begun before it trains.
    """

    configuration: Configuration
    stage: Stage
    should_stop: Callable[[], str | None]
    generators: Drawn = field(init=False)

    def __post_init__(self) -> None:
        self.generators = generators(self.device)

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.stage.run.engine.device


Ended = tuple[Lane, Outcome | BaseException]


def train_together(lanes: Sequence[Lane], least: int = 1) -> Iterator[Ended]:
    """Train lanes that have come equally far until each stage ends, or is interrupted; each as soon as it has.

    Where fewer than `least` are left, each goes on alone. What goes wrong with a lane ends that lane. Raises Apart
    where the lanes cannot be trained as one, or no longer; those that have not ended are to be trained again.
    """
    batches, left = lanes[0].stage.run.batches, list(lanes)
    over = [(lane, how) for lane in lanes if (how := _guarded(lane.stage.begun))]
    put_generators(lanes[0].device, *lanes[0].generators)
    while True:
        yield from over
        gone = [lane for lane, _ in over]
        left = [lane for lane in left if lane not in gone]
        if len(left) < least:
            yield from _one_by_one(left, batches)
            return
        if not left:
            return
        over = _until_one_ends(left, batches)


def _one_by_one(lanes: Sequence[Lane], batches: Iterator[Any]) -> Iterator[Ended]:
    """Train each to its end from where it is, with the batches and the random numbers that come next."""
    here = generators(lanes[0].device) if lanes else None
    for lane in lanes:
        run = lane.stage.run
        if len(lanes) == 1:
            run.batches = batches
        else:
            run.skip(run.step)
        if here:
            put_generators(lane.device, *here)
        if ended := _guarded(partial(go_on, lane.stage, lane.should_stop)):
            yield lane, ended


def _until_one_ends(lanes: Sequence[Lane], batches: Iterator[Any]) -> list[Ended]:
    stages = [lane.stage for lane in lanes]
    stacked = Stacked([stage.run for stage in stages], [lane.configuration for lane in lanes])
    over: list[Ended] = []
    while not over:
        over = [(lane, Interrupted(why)) for lane in lanes if (why := lane.should_stop())]
        over = over or _stretch(lanes, stacked, batches)
    for place in range(len(lanes)):
        stacked.give_back(place)
    return over


def _stretch(lanes: Sequence[Lane], stacked: Stacked, batches: Iterator[Any]) -> list[Ended]:
    """Train until something is due, or the losses are; the lanes whose stage has ended."""
    stages = [lane.stage for lane in lanes]
    begin = stages[0].run.step
    end = min(begin + READ, *(stage.due() for stage in stages))
    rates = [[stage.course.rate(step) for stage in stages] for step in range(begin, end)]
    losses = []
    try:
        for loss in stacked.steps(batches, rates):
            losses.append(loss)
            if len(losses) < len(rates) and any(lane.should_stop() for lane in lanes):
                break
        read = torch.stack(losses).tolist()
    except (Apart, KeyboardInterrupt):
        raise
    except BaseException as error:  # a task may even call sys.exit(); alone it is its trial's end
        raise Apart(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    over = [(lane, ended) for place, lane in enumerate(lanes) if (ended := _heard(lane, place, rates, read))]
    gone = [lane for lane, _ in over]
    return [*over, *_reached([(place, lane) for place, lane in enumerate(lanes) if lane not in gone], stacked)]


def _heard(lane: Lane, place: int, rates: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> Any:
    """Take in what the steps of a lane have lost; the end of one that has diverged."""
    run = lane.stage.run
    for rate, loss in zip(rates, losses, strict=False):
        run.step += 1
        if why := run.losses.heard([(run.step, rate[place], loss[place])]):
            return lane.stage.diverged(why)
    return None


def _reached(lanes: Sequence[tuple[int, Lane]], stacked: Stacked) -> list[Ended]:
    """Measure and keep each lane, all with the random numbers that it would have alone."""
    over: list[Ended] = []
    before = after = None
    for place, lane in lanes:
        stage = lane.stage
        if stage.run.step not in stage.course.points | stage.course.boundaries:
            continue
        before = before or generators(lane.device)
        put_generators(lane.device, *before)
        stacked.give_back(place)
        if ended := _guarded(stage.reached):
            over.append((lane, ended))
        if stage.run.step in stage.course.points:
            after = generators(lane.device)
    if last := after or before:
        put_generators(lanes[0][1].device, *last)
    return over


def _guarded(stage: Callable[[], Outcome | None]) -> Outcome | BaseException | None:
    """What goes wrong with one lane, in its task or its search, is its end; not what goes wrong because it is one."""
    try:
        return stage()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a task may even call sys.exit()
        if out_of_memory(error) or ESCAPED in str(error):
            raise Apart(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        return error
