"""`lrtune worker`, or `python -m worker`: a worker process on one device, until SIGTERM or Ctrl-C."""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType

import torch
from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from lrtune import logs
from lrtune.errors import LrtuneError
from lrtune.printable import Safe
from worker.loop import Worker
from worker.settings import Settings

PRELOAD = ["worker.loop", "torch._dynamo"]  # once, for all processes on further devices; optimizers import the latter


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
    try:
        settings = Settings()
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(str(part) for part in one["loc"]).upper()
            print(f"LRTUNE_{name}: {one['msg']}; found {one['input']!r}", file=sys.stderr)
        raise SystemExit(2) from None
    if settings.log == "json":
        logs.as_json()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.compile_dir.absolute()))
    torch.set_num_threads(settings.threads)
    threadpool_limits(settings.threads)  # the search's own matrices: BLAS threads that wait for a busy core cost most
    return settings


def serve(settings: Settings, stop: threading.Event) -> int:
    """Be one worker until asked to stop; the exit status."""
    try:
        worker = Worker(settings, stop)
    except LrtuneError as error:
        print(error, file=sys.stderr)
        return 2
    worker.work()
    return 0


def main() -> int:
    """Run a worker, or several; the exit status."""
    names = ", ".join(f"LRTUNE_{name.upper()}" for name in Settings.model_fields)
    about = "Train the trials of lrtune's jobs on one device, until SIGTERM or Ctrl-C."
    parser = argparse.ArgumentParser("lrtune worker", description=about, epilog=f"Environment variables: {names}.")
    parser.parse_args()
    settings = start()
    multiprocessing.set_forkserver_preload(PRELOAD)
    stop = threading.Event()
    on_signal(stop)
    if settings.slots == 1 and settings.device != "all":
        return serve(settings, stop)
    from worker import slots  # which imports this module

    return slots.run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
