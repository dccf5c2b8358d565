"""What may happen to the service, each fault a function of the stack and of chance that ends with the fault.

None waits for a lease to run out: `Stack.expire` ends it, and what is waited for is that somebody has seen that.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from random import Random

import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.chaos.databases import Postgres
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.stack import Member, Stack, end, held
from lrtune.store.tables import TrialRow
from lrtune.wire.results import TrialState

Fault = Callable[[Stack, Random], str]
SHORT = 1.0  # seconds within a lease
SKEWED = 15.0  # seconds: were nobody else to show life for 20, a worker may believe its own clock


def kill_a_worker(stack: Stack, chance: Random) -> str:
    """SIGKILL."""
    return _kill(chance.choice(stack.workers).pid)


def kill_a_loop(stack: Stack, chance: Random) -> str:
    """SIGKILL."""
    return _kill(chance.choice(stack.loops).pid)


def kill_the_server(stack: Stack, chance: Random) -> str:  # noqa: ARG001
    """SIGKILL."""
    return _kill(stack.server.pid)


def stop_a_worker(stack: Stack, chance: Random) -> str:
    """SIGSTOP until another one trains its trial, then SIGCONT."""
    return _stopped_too_long(stack, chance.choice(stack.workers))


def stop_a_loop(stack: Stack, chance: Random) -> str:
    """The same."""
    return _stopped_too_long(stack, chance.choice(stack.loops))


def stop_the_server(stack: Stack, chance: Random) -> str:
    """SIGSTOP for a moment, or until the leases of its loops have run out."""
    pids = [stack.server.pid]
    if chance.random() < 0.5:
        return _stopped(pids)
    return outlasted(stack, stack.loops, partial(_send, pids, signal.SIGSTOP), partial(_send, pids, signal.SIGCONT))


def cut_the_servers_connections(stack: Stack, chance: Random) -> str:
    """Those of the loops, and nobody comes through for a moment, or until their leases have run out."""
    if chance.random() < 0.5:
        return _cut(stack.proxy)
    return outlasted(stack, stack.loops, stack.proxy.refuse, stack.proxy.admit)


def skew_a_workers_clock(stack: Stack, chance: Random) -> str:
    """One more worker, an hour ahead or behind: it may take nothing."""
    off, log = chance.choice((-3600, 3600)), stack.folder / "skewed.log"
    before = log.stat().st_size if log.exists() else 0
    stranger = stack.start("skewed", "benchmarks.chaos.skewed", str(off))
    stack.strangers.append(stranger.pid or 0)
    said = _until(lambda: b"the clock of this host says" in log.read_bytes()[before:], seconds=SKEWED)
    time.sleep(SHORT)
    end([stranger])
    return f"process {stranger.pid} by {off:+d} s, which it {'saw' if said else 'had no time to see'}"


def fill_the_disk(stack: Stack, chance: Random) -> str:  # noqa: ARG001
    """No byte is left, for states and for the database; where we may not mount one, none may grow a file."""
    if not stack.mounted:
        with _no_room([one.pid for one in (stack.server, *stack.workers)]):
            time.sleep(SHORT)
        return "by RLIMIT_FSIZE"
    ballast = stack.disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass
    time.sleep(SHORT)
    size = ballast.stat().st_size
    ballast.unlink()
    return f"with {size} bytes"


def corrupt_states(stack: Stack, chance: Random) -> str:
    """Three training states: cut short, with other bytes in the middle, or another one's content."""
    found = sorted(stack.states.rglob("*.safetensors"))
    for path in chance.sample(found, min(3, len(found))):
        with suppress(OSError):  # it has gone meanwhile
            content = bytearray(path.read_bytes())
            how = chance.randrange(3)
            if how == 1:
                content[len(content) // 2 : len(content) // 2 + 64] = chance.randbytes(64)
            other = chance.choice(found).read_bytes()
            path.write_bytes(content[: len(content) // 2] if how == 0 else content if how == 1 else other)
    return f"{min(3, len(found))} of {len(found)}"


def kill_postgresql(stack: Stack, chance: Random) -> str:  # noqa: ARG001
    """SIGKILL to all of its processes, the first one first."""
    found = stack.database.processes()
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return f"{len(found)} processes"


def stop_postgresql(stack: Stack, chance: Random) -> str:
    """SIGSTOP to all of its processes, within the leases or for longer than all of them."""
    said = _stopped([one.pid for one in stack.database.processes()])
    return said if chance.random() < 0.5 else f"{said}, {_all_expired(stack)}"


def cut_the_databases_connections(stack: Stack, chance: Random) -> str:
    """Those of server and workers, and nobody comes through for a moment, or for longer than all leases."""
    if stack.database.proxy is None:
        return "none"
    if chance.random() < 0.5:
        return _cut(stack.database.proxy)
    stack.database.proxy.refuse()
    said = _all_expired(stack)
    stack.database.proxy.admit()
    return said


ANYWHERE: Sequence[Fault] = (
    kill_a_worker,
    kill_a_loop,
    kill_the_server,
    stop_a_worker,
    stop_a_loop,
    stop_the_server,
    cut_the_servers_connections,
    fill_the_disk,
    corrupt_states,
)
ON_SQLITE: Sequence[Fault] = (skew_a_workers_clock,)
ON_POSTGRESQL: Sequence[Fault] = (kill_postgresql, stop_postgresql, cut_the_databases_connections)


def drawn(stack: Stack, chance: Random) -> Iterator[Fault]:
    """Faults without end: all of them in some order, then all in another."""
    while True:
        every = [*ANYWHERE, *(ON_POSTGRESQL if isinstance(stack.database, Postgres) else ON_SQLITE)]
        chance.shuffle(every)
        yield from every


def outlasted(
    stack: Stack,
    members: Sequence[Member],
    cut_off: Callable[[], object],
    join: Callable[[], object],
    *,
    taken: bool = False,
) -> str:
    """Cut members off while they hold something, and let them go on once others have seen that their leases ran out.

    With `taken`, once others have begun to train what they held.
    """
    pids = [one.pid for one in members]
    _until(lambda: bool(stack.ask(partial(held, pids=pids))), seconds=stack.silence)
    tokens = stack.expire(pids, meanwhile=cut_off)
    try:
        seen = _until(lambda: stack.ask(partial(_lost, tokens=tokens, taken=taken)), seconds=stack.silence)
    finally:
        join()
    return f"{len(tokens)} leases ran out{'' if seen else ', which nobody saw'}"


def _lost(tx: Session, tokens: Mapping[int, str], *, taken: bool) -> bool:
    rows = tx.execute(select(TrialRow.id, TrialRow.token, TrialRow.state).where(TrialRow.id.in_(tokens)))
    return all(token != tokens[trial] and not (taken and state == TrialState.WAITING) for trial, token, state in rows)


def _all_expired(stack: Stack) -> str:
    """The leases of everybody have run out, and whoever comes first finds that, or renews his own."""
    return f"{len(stack.expire([one.pid for one in stack.members]))} leases ran out"


def _until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Wait for something, but not for ever: without it the fault is a milder one. Whether it came."""
    ends = time.monotonic() + seconds
    while not (came := condition()) and time.monotonic() < ends:
        time.sleep(0.1)
    return came


def _kill(pid: int) -> str:
    _send([pid], signal.SIGKILL)
    return f"process {pid}"


def _stopped(pids: Sequence[int]) -> str:
    """Stopped for a moment."""
    _send(pids, signal.SIGSTOP)
    time.sleep(SHORT)
    _send(pids, signal.SIGCONT)
    return f"process {', '.join(map(str, pids[:1]))} for {SHORT:g} s"


def _stopped_too_long(stack: Stack, one: Member) -> str:
    stop, go_on = (partial(_send, [one.pid], number) for number in (signal.SIGSTOP, signal.SIGCONT))
    return f"process {one.pid}, {outlasted(stack, [one], stop, go_on, taken=True)}"


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _cut(proxy: Proxy) -> str:
    found = proxy.refuse()
    time.sleep(SHORT)
    proxy.admit()
    return f"{found} ends"


@contextmanager
def _no_room(pids: Sequence[int]) -> Iterator[None]:
    for limit in (0, resource.RLIM_INFINITY):
        for pid in pids:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if limit == 0:
            yield
