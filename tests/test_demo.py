"""The demo leaves no process behind, whenever and however it is stopped."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

DEMO = Path(__file__).parent.parent / "demo.py"


class Demo:
    """A running demo; it and all that it starts carry a mark in their environment."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / "output"
        env = {**os.environ, "DEMO_MARK": self.mark, "TMPDIR": str(folder)}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(DEMO)], env=env, stdout=output, stderr=output, start_new_session=True
            )

    def alive(self) -> list[psutil.Process]:
        """Every living process with the mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEMO_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def until_it_runs(self, processes: int) -> None:
        """Wait for this many of its processes, or more."""
        self._until(lambda: len(self.alive()) >= processes)

    def until_all_are_gone(self) -> None:
        """Wait for the end of every process."""
        self._until(lambda: not self.alive())

    def until_it_says(self, words: str) -> None:
        """Wait for words on its screen."""
        self._until(lambda: words in self.output.read_text())

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not true():
            assert time.monotonic() < deadline, f"{self.alive()}; {self.output.read_text()}"
            time.sleep(0.02)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    started = Demo(tmp_path)
    yield started
    for process in started.alive():
        process.kill()
    started.process.wait()


WHOLE = 2 + min(2, os.cpu_count() or 1)  # processes: the demo, its server, its workers


def test_ctrl_c_while_the_first_child_starts(demo: Demo) -> None:
    demo.until_it_runs(2)
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(90) == 130
    assert demo.alive() == []


def test_sigterm_to_the_demo_alone_while_its_children_start(demo: Demo) -> None:
    demo.until_it_runs(WHOLE)
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(90) == 143
    assert demo.alive() == []


WHERE_EXCEPTIONS_ARE_IGNORED = """
import os, signal, sys, weakref
from pathlib import Path
import demo

signal.signal(signal.SIGTERM, demo._stop)
held = demo.Children(Path("."), {})
reference = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM))
del held
demo.Children(Path("."), {}).check()
"""


def test_a_signal_that_comes_while_python_clears_something_away_ends_the_demo_too(tmp_path: Path) -> None:
    """`SystemExit` is ignored there: the demo went on, and heard no further signal."""
    env = {**os.environ, "PYTHONPATH": str(DEMO.parent)}
    command = [sys.executable, "-c", WHERE_EXCEPTIONS_ARE_IGNORED]
    ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Exception ignored" in ended.stderr
    assert ended.returncode == 143


def test_ctrl_c_twice_in_the_middle_of_a_training(demo: Demo) -> None:
    demo.until_it_says("is running")
    for _ in range(2):
        os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(90) == 130
    assert demo.alive() == []
    assert "Traceback" not in demo.output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child's life to its parent's")
def test_a_killed_demo_takes_its_children_along(demo: Demo) -> None:
    demo.until_it_runs(WHOLE)
    demo.process.kill()
    demo.until_all_are_gone()


def test_a_worker_that_dies_ends_the_demo_with_its_last_words(demo: Demo) -> None:
    demo.until_it_runs(WHOLE)
    next(one for one in demo.alive() if one.cmdline()[-2:] == ["-m", "worker"]).kill()
    assert demo.process.wait(90) == 1
    assert "the demo failed: the worker-0 ended with status -9" in demo.output.read_text()
    assert demo.alive() == []
