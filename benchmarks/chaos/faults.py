"""What may happen to the service, each fault a function of the stack and of chance that ends with the fault."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random

import psutil

from benchmarks.chaos.databases import Postgres
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.stack import LEASE, Stack, end

Fault = Callable[[Stack, Random], str]
SHORT, LONG = 1.5, LEASE + 1.5  # seconds: within a lease, and beyond one


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
    """SIGSTOP until its lease is somebody else's, then SIGCONT."""
    return _frozen([chance.choice(stack.workers).pid], LONG)


def stop_a_loop(stack: Stack, chance: Random) -> str:
    """The same."""
    return _frozen([chance.choice(stack.loops).pid], LONG)


def stop_the_server(stack: Stack, chance: Random) -> str:
    """SIGSTOP for less than a lease, or for longer."""
    return _frozen([stack.server.pid], chance.choice((SHORT, LONG)))


def cut_the_servers_connections(stack: Stack, chance: Random) -> str:
    """Those of the loops, and nobody comes through for a while."""
    return _cut(stack.proxy, chance)


def skew_a_workers_clock(stack: Stack, chance: Random) -> str:
    """One more worker, an hour ahead or behind: it may take nothing."""
    off = chance.choice((-3600, 3600))
    stranger = stack.start("skewed", "benchmarks.chaos.skewed", str(off))
    stack.strangers.append(stranger.pid or 0)
    time.sleep(LONG)
    end([stranger])
    return f"process {stranger.pid} by {off:+d} s"


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
    """SIGSTOP to all of its processes, for less than a lease or for longer."""
    return _frozen([one.pid for one in stack.database.processes()], chance.choice((SHORT, LONG)))


def cut_the_databases_connections(stack: Stack, chance: Random) -> str:
    """Those of server and workers, and nobody comes through for a while."""
    return _cut(stack.database.proxy, chance) if stack.database.proxy else "none"


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


def _kill(pid: int) -> str:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f"process {pid}"


def _frozen(pids: Sequence[int], seconds: float) -> str:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(seconds)
    return f"process {', '.join(map(str, pids[:1]))} for {seconds:g} s"


def _cut(proxy: Proxy, chance: Random) -> str:
    proxy.refusing = True
    found = proxy.cut()
    time.sleep(chance.uniform(0.0, SHORT))
    proxy.refusing = False
    return f"{found} ends"


@contextmanager
def _no_room(pids: Sequence[int]) -> Iterator[None]:
    for limit in (0, resource.RLIM_INFINITY):
        for pid in pids:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if limit == 0:
            yield
