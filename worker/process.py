"""A process of a worker: its log, its threads, its signals, and its life until it is asked to stop."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from types import FrameType

import torch
from threadpoolctl import threadpool_limits

from lrtune import logs
from lrtune.errors import LrtuneError
from lrtune.printable import Safe
from lrtune.settings import read
from worker.loop import Worker
from worker.settings import Settings

log = logging.getLogger(__name__)


def on_signal(stop: threading.Event) -> None:
    """Let the first SIGTERM or Ctrl-C stop the worker in good order; a second one finds the old handlers and kills."""
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each, handler in old.items():
            signal.signal(each, handler)
        stop.set()

    for number in old:
        signal.signal(number, handle)


def start() -> Settings:
    """Make this process one of a worker's: its log, and its threads. Ends it, in words, where a setting is wrong."""
    lines = logging.StreamHandler()
    lines.setFormatter(Safe("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # what its commands ask the server for is no news
    settings = read(Settings)
    if settings.log == "json":
        logs.as_json()
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_for_code(settings.compile_dir.absolute()))
    torch.set_num_threads(settings.threads)
    threadpool_limits(settings.threads)  # the search's own matrices: BLAS threads that wait for a busy core cost most
    return settings


def _for_code(folder: Path) -> Path:
    """Where torch keeps compiled code: it makes that folder for every trial, also for those that compile nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        instead = Path(mkdtemp(prefix="lrtune-compiled-"))  # no folder that somebody else may write to
        log.warning("LRTUNE_COMPILE_DIR: nothing can be written there (%s), so %s is used", error, instead)
        return instead


def serve(settings: Settings, stop: threading.Event) -> int:
    """Be one worker until asked to stop; the exit status."""
    try:
        worker = Worker(settings, stop)
    except LrtuneError as error:
        print(error, file=sys.stderr)
        return 2
    worker.work()
    return 0
