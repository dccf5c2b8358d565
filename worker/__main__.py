"""`lrtune worker`, or `python -m worker`: workers on one device, until SIGTERM or Ctrl-C."""

import argparse
import multiprocessing
import sys
import threading

from worker import slots
from worker.process import on_signal, serve, start
from worker.settings import Settings

# Once, for all processes on further devices: optimizers import the second, trainings that are sharded the third.
PRELOAD = ["worker.loop", "torch._dynamo", "torch.distributed.fsdp"]


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
    alone = settings.slots == 1 and settings.device != "all"
    return serve(settings, stop) if alone else slots.run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
