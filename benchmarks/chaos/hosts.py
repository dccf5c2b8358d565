"""Two hosts as network namespaces, cut off again and again: `python -m benchmarks.chaos.hosts [--minutes 2]`.

Server and PostgreSQL stand on this host; each other one has a worker and a loop, and a cable of its own, which is
unplugged for longer than a lease, and plugged in again: connections hang meanwhile, and are not told. Needs root.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random, SystemRandom

from benchmarks.chaos.__main__ import suffered
from benchmarks.chaos.databases import Postgres
from benchmarks.chaos.faults import Fault, outlasted
from benchmarks.chaos.stack import Stack

HOSTS, NETWORK, HERE = ("lrtune-a", "lrtune-b"), "10.203.77", "10.203.77.1"


class Hosts(Stack):
    """Each worker and each loop on one of the hosts."""

    def _worker(self, number: int) -> Callable[[], BaseProcess]:
        host = HOSTS[number % 2]
        return lambda: self.start(f"worker-{number}", "benchmarks.chaos.inside", host, "worker")

    def _loop(self, number: int) -> Callable[[], BaseProcess]:
        host, folder = HOSTS[number % 2], str(self.folder / f"checkpoints-{number}")
        return lambda: self.start(f"loop-{number}", "benchmarks.chaos.inside", host, "benchmarks.chaos.loop", folder)


def unplug_a_host(stack: Stack, chance: Random) -> str:
    """Its cable, for longer than its leases."""
    return _unplugged(stack, [chance.choice(HOSTS)])


def unplug_both_hosts(stack: Stack, chance: Random) -> str:  # noqa: ARG001
    """Both at once."""
    return _unplugged(stack, HOSTS)


def _unplugged(stack: Stack, hosts: Sequence[str]) -> str:
    def plug(how: str) -> None:
        for host in hosts:
            _ip("link", "set", host, how)

    theirs = [each[HOSTS.index(host)] for host in hosts for each in (stack.workers, stack.loops)]
    return f"{' and '.join(hosts)}, {outlasted(stack, theirs, partial(plug, 'down'), partial(plug, 'up'))}"


def drawn(chance: Random) -> Iterator[Fault]:
    """One host after the other, now and then both."""
    while True:
        yield chance.choice((unplug_a_host, unplug_a_host, unplug_both_hosts))


@contextmanager
def cabled() -> Iterator[None]:
    """Namespaces, a bridge, and a cable from each to it."""
    _ip("link", "add", "lrtune", "type", "bridge")
    try:
        _ip("addr", "add", f"{HERE}/24", "dev", "lrtune")
        _ip("link", "set", "lrtune", "up")
        for number, host in enumerate(HOSTS, start=2):
            _ip("netns", "add", host)
            _ip("link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", host, "master", "lrtune", "up")
            _ip("-n", host, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        _ip("link", "del", "lrtune")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main() -> int:
    """Let it happen; 0 where nothing was broken."""
    parser = argparse.ArgumentParser("python -m benchmarks.chaos.hosts", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lrtune-hosts-") as name, cabled():
        folder, chance = Path(name), Random(asked.seed)
        folder.chmod(0o755)
        (folder / "disk").mkdir()
        stack = Hosts(Postgres(folder / "disk", host=HERE), folder, folder / "disk", full=False, host=HERE)
        try:
            found = suffered(stack, drawn(chance), chance, 60 * asked.minutes, most=10**6)
        finally:
            stack.close()
    print(json.dumps(found, indent=1))
    return int(bool(found["broken"]))


if __name__ == "__main__":
    sys.exit(main())
