"""`lrtune fleet`: workers as Ray actors, as many as would find something to train.

Ray places an actor where its resources are, starts it again where its node dies, and lets its autoscaler add nodes for
actors that wait. Of leases and the database nothing changes: an actor is a worker.
"""

import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from sqlalchemy import make_url

from lrtune.errors import Invalid
from lrtune.store import Database, workers
from lrtune.store.census import wanted
from lrtune.store.database import AWAY
from lrtune.uploads import mirror
from worker.gang import Gang
from worker.loop import Worker
from worker.process import on_signal, start
from worker.settings import Settings

PASSED = ("LRTUNE_", "GLOO_", "NCCL_")  # variables that workers are to have: the service's, and which network to use
log = logging.getLogger("lrtune.fleet")


@dataclass(frozen=True, slots=True)
class Size:
    """How many workers there may be, and what each reserves: that for each of its devices."""

    least: int
    most: int
    gpus: float
    cpus: float
    devices: int = 1

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise Invalid(f"--min: found {self.least}, more than --max, which is {self.most}")
        if self.devices > 1 and not self.gpus and not self.cpus:
            raise Invalid("--devices-per-worker: found neither GPUs nor CPUs to reserve for each of them")

    def places(self) -> Any:
        """Ask Ray for the devices of a worker, all or none, near each other; None for a single one."""
        each = {"CPU": self.cpus, "GPU": self.gpus}
        return placement_group([each] * self.devices) if self.devices > 1 else None


class Actor:
    """A worker in a process of Ray's. `work` and `drain` run beside each other."""

    def __init__(self) -> None:
        self._stop, self._id = threading.Event(), ""

    def work(self) -> None:
        """Train until drained. Ray calls it again where the actor has been started again."""
        settings, group = start(), get_current_placement_group()
        gang = None if group is None else Gang(settings, group, self._stop)
        worker = Worker(settings, self._stop, gang)
        self._id = worker.id
        worker.work()

    def name(self) -> str:
        """The id that the worker has signed in with; empty before."""
        return self._id

    def drain(self) -> None:
        """Hand the trial in hand back, and end."""
        self._stop.set()


_remote: Any = ray.remote(Actor)


@dataclass(slots=True, eq=False)
class Member:
    """An actor, what its work comes to, its places where it has several, and whether it is on its way out."""

    actor: Any
    work: Any
    places: Any = None
    drained: bool = False

    def end(self) -> None:
        """Let Ray have back what it holds."""
        ray.kill(self.actor)
        if self.places is not None:
            remove_placement_group(self.places)


@dataclass(slots=True)
class Fleet:
    """Keeps as many actors as there are trials for them. `patience`: rounds with less to do before one is drained."""

    database: Database
    size: Size
    environment: dict[str, str]
    patience: int = 12
    members: list[Member] = field(default_factory=list)
    _quiet: int = 0

    def round(self) -> None:
        """Look once, and start or drain actors."""
        self._buried()
        with self.database.read() as tx:
            want = min(max(wanted(tx), self.size.least), self.size.most)
            busy = {worker.id for worker in workers.alive(tx) if worker.job is not None}
        for member in self.members:
            if member.drained:  # once more: it may have been started again since
                member.actor.drain.remote()
        serving = [member for member in self.members if not member.drained]
        self._quiet = self._quiet + 1 if want < len(serving) else 0
        for _ in range(want - len(serving)):
            self._start()
        if self._quiet > self.patience:
            idle_first = sorted(serving, key=lambda member: _name(member) in busy)
            for member in idle_first[: len(serving) - want]:
                self._drain(member)

    def close(self, seconds: float) -> None:
        """Drain all, and end what is left after so long: its leases run out."""
        for member in list(self.members):
            self._drain(member)
        ray.wait([member.work for member in self.members], num_returns=len(self.members), timeout=seconds)
        for member in self.members:
            member.end()
        self.members.clear()

    def _start(self) -> None:
        options: dict[str, Any] = {"num_cpus": self.size.cpus, "num_gpus": self.size.gpus, "max_concurrency": 2}
        lasting = {"max_restarts": -1, "max_task_retries": -1, "runtime_env": {"env_vars": self.environment}}
        if (places := self.size.places()) is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=0)
        actor = _remote.options(**options, **lasting).remote()
        self.members.append(Member(actor, actor.work.remote(), places))
        log.info("a worker is asked for: %d of at most %d", len(self.members), self.size.most)

    def _drain(self, member: Member) -> None:
        """Let a worker hand its trial back; one that is not placed yet must not have a node made for it."""
        if _name(member):
            member.drained = True
            member.actor.drain.remote()
        else:
            member.end()
            self.members.remove(member)
        log.info(
            "a worker is drained: %d of at most %d go on", sum(not one.drained for one in self.members), self.size.most
        )

    def _buried(self) -> None:
        """Forget those whose work is over, and say why where it failed."""
        refs = {member.work: member for member in self.members}
        over, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0) if refs else ([], [])
        for ref in over:
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                log.warning("a worker has ended: %s", str(error).strip().splitlines()[-1])
            refs[ref].end()
            self.members.remove(refs[ref])


def _name(member: Member) -> str:
    try:
        return str(ray.get(member.actor.name.remote(), timeout=1))
    except ray.exceptions.RayError:  # not placed yet, or away
        return ""


def _places(settings: Settings) -> dict[str, str]:
    """Where everything is, said so that it is the same place from any folder."""
    url, states = make_url(settings.database_url), settings.state_dir
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    commands = {"LRTUNE_COMMANDS": str(settings.commands.absolute())} if settings.commands else {}
    return commands | {
        "LRTUNE_DATABASE_URL": url.render_as_string(hide_password=False),
        "LRTUNE_DATA_DIR": mirror.said(settings.data_dir),
        "LRTUNE_STATE_DIR": states if "://" in states else str(Path(states).absolute()),
    }


def run(settings: Settings, address: str, size: Size, seconds: float) -> None:
    """Keep a fleet on a Ray cluster until asked to stop. Raises Invalid where no cluster answers."""
    stop = threading.Event()
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED)} | _places(settings)
    database = Database(settings.database_url)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        raise Invalid(
            f"--address: found no Ray cluster ({str(error).splitlines()[0]}); accepted is auto or host:port"
        ) from None
    on_signal(stop)  # now: Ray has put a handler of its own there
    fleet = Fleet(database, size, environment | {"PYTHONPATH": os.pathsep.join(paths)})
    try:
        while not stop.is_set():
            try:
                fleet.round()
            except AWAY as error:
                log.warning("the database is away: %s", str(error).splitlines()[0])
            stop.wait(seconds)
    finally:
        fleet.close(60)
        database.dispose()
        ray.shutdown()


def main(address: str, size: Size, seconds: float) -> None:
    """The command: a fleet until SIGTERM or Ctrl-C."""
    run(start(), address, size, seconds)
