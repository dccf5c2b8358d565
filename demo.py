"""`make demo`: tune a real network through the real server, real workers and a real database, and show the answer.

Whatever happens, no process stays behind: children are ended in a `finally`, signals that ask the demo to stop become
an exception only when every child is on the list, and on Linux the kernel ends the children of a demo that was killed.
"""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from lrtune.cli import terminal, watch
from lrtune.client import Client
from lrtune.errors import LrtuneError
from lrtune.wire.results import JobState

ROOT = Path(__file__).resolve().parent
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
GRACE = 5.0  # seconds in which a child may end by itself
START = 60.0  # seconds in which the server must answer
JOB = {
    "name": "demo",
    "task": "digits",
    "budget": {"full_runs": 60, "seconds": 90},  # a network trains in a second or two
}


class Broken(Exception):
    """The demo cannot go on."""


class Child:
    """A program of the house, in a session of its own, with its words in a file."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own programs
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_tie(os.getpid()),
            )

    def check(self) -> None:
        """Raise if the program has ended."""
        if self.process.poll() is not None:
            words = self.log.read_text(errors="replace").splitlines()[-20:]
            raise Broken("\n".join([f"the {self.name} ended with status {self.process.returncode}:", *words]))


def _tie(parent: int) -> Callable[[], None]:
    """What a child does before its program starts: hear signals, and die with its parent."""

    def tie() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return tie


class Children:
    """Every process that the demo has started."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder, self._env, self._all = folder, env, list[Child]()

    def start(self, name: str, *command: str) -> None:
        """Start a program; a signal that comes in between waits until it is on the list."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            self._all.append(Child(name, list(command), self._folder, self._env))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def check(self) -> None:
        """Raise if one has ended, or the demo is to end."""
        if _asked:
            sys.exit(_asked[0])
        for child in self._all:
            child.check()

    def end(self) -> None:
        """Ask all to end, then make them; signals wait meanwhile."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        running = [child.process for child in self._all]
        for process in running:
            process.terminate()
        until = time.monotonic() + GRACE
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


_asked: list[int] = []  # the exit status that a signal has asked for


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """The first signal ends the demo; more of them must not disturb its clearing up.

    What is raised while Python clears something away it ignores, so `check` looks for what was asked, too.
    """
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    _asked.append(128 + number)
    sys.exit(128 + number)


@contextmanager
def service(console: Console, key: str) -> Iterator[tuple[Client, Children]]:
    """A server with this key and its workers in a fresh folder, for as long as it takes."""
    workers = min(2, os.cpu_count() or 1)
    with ExitStack() as clearing:
        folder = Path(clearing.enter_context(tempfile.TemporaryDirectory(prefix="lrtune-demo-")))
        port = _free_port()
        children = Children(folder, _environment(folder, key))
        clearing.callback(children.end)
        url = f"http://127.0.0.1:{port}"
        console.print(
            f"starting a server at {url} and {workers} worker(s) on SQLite in {folder}", highlight=False, soft_wrap=True
        )
        address = ("--host", "127.0.0.1", "--port", str(port))
        children.start("server", "uvicorn", "--factory", "app.main:create_app", *address)
        for number in range(workers):
            children.start(f"worker-{number}", "worker")
        _wait(url, children)
        yield clearing.enter_context(Client(url, key)), children


def _environment(folder: Path, key: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LRTUNE_")}
    return inherited | {
        "LRTUNE_DATABASE_URL": f"sqlite:///{folder}/lrtune.db",
        "LRTUNE_API_KEY": key,
        "LRTUNE_CREDENTIALS": str(folder / "credentials"),
        "LRTUNE_DATA_DIR": str(folder / "data"),
        "LRTUNE_DEVICE": "cpu",  # the network is so small that a GPU would only be slower
        "LRTUNE_POLL_SECONDS": "0.1",
        "OMP_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait(url: str, children: Children) -> None:
    """Until the server answers."""
    until = time.monotonic() + START
    while time.monotonic() < until:
        children.check()
        try:
            if httpx.get(f"{url}/readyz", trust_env=False, timeout=2.0).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise Broken(f"the server at {url} did not get ready within {START:g} s")


def tune(console: Console) -> None:
    """Submit the job, follow it, show its answer."""
    key = secrets.token_urlsafe(32)
    with service(console, key) as (client, children):
        console.print(f"watch it at {client.url}/ with the key {key}", highlight=False, soft_wrap=True)
        job = client.submit(JOB)
        families = ", ".join(search.family for search in job.spec.schedules)
        console.print(
            f"tuning a small network on {job.spec.task.name}; schedules to try: {families}\n", highlight=False
        )
        job = watch.follow(client, job.id, console, check=children.check)
        if job.state is not JobState.SUCCEEDED:
            raise Broken(f"the job has {job.state}: {job.reason}")
        best = client.best(job.id)
        console.rule("the answer")
        console.print(terminal.answer(best, client.trial(job.id, best.trial)))
        console.rule("the same as PyTorch code")
        console.print(client.export(job.id, "pytorch"), markup=False, highlight=False, soft_wrap=True)


def main() -> int:
    """Run the demo; the exit status."""
    for each in STOPPING:
        signal.signal(each, _stop)
    console = Console()
    try:
        tune(console)
    except (Broken, LrtuneError, OSError) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
