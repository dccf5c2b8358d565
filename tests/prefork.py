"""Commands that find their imports done: a script that is started again and again is forked from one process.

`python -S tests/prefork.py SOCKET script.py ...` asks for it, as a command of `lrtune run` may; importing a framework
takes seconds, and is done once, by the process that `prefork` starts.
"""

import atexit
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

FRAMEWORKS = {
    "keras": ("keras",),
    "lightning": ("lightning.pytorch",),
    "trainer": ("transformers.trainer", "transformers.models.llama.modeling_llama"),
    "accelerate": ("accelerate",),
}


@contextmanager
def prefork(folder: Path, environment: Mapping[str, str]) -> Iterator[list[str]]:
    """The beginning of a command, to which a script's path is added."""
    path = folder / "prefork"
    with subprocess.Popen([sys.executable, __file__, str(path)], env=os.environ | environment) as serving:
        try:
            while not path.exists() and serving.poll() is None:
                time.sleep(0.02)
            yield [sys.executable, "-S", __file__, str(path)]
        finally:
            serving.kill()


def ask(path: str, *words: str) -> int:
    """Have a script run with its arguments as if it were this process; its exit code."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)
        asked = json.dumps([words, dict(os.environ), str(Path.cwd())]).encode()
        socket.send_fds(door, [asked], [1, 2])
        return int(door.recv(10).decode())


def serve(path: str) -> str:
    """Fork a process for each script that is asked for; answers in that process, with the script."""
    importlib.import_module("lrtune.script")
    importlib.import_module("lrtune.adapters.pytorch")
    importlib.import_module("torch._dynamo")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        while True:
            asked, _ = door.accept()
            with asked:
                said, outputs, _, _ = socket.recv_fds(asked, 2**20, 2)
                words, environment, folder = json.loads(said)
                for module in FRAMEWORKS.get(Path(words[0]).stem.split("_")[0], ()):
                    importlib.import_module(module)
                if not (child := os.fork()):
                    become(environment, folder, outputs)
                    sys.argv = words
                    return str(words[0])
                for output in outputs:
                    os.close(output)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(BrokenPipeError):  # who has asked was ended meanwhile
                    asked.sendall(str(code).encode())


def become(environment: Mapping[str, str], folder: str, outputs: list[int]) -> None:
    """Be as the process that has asked."""
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    for place, output in enumerate(outputs, start=1):
        os.dup2(output, place)


def left(code: str | int | None) -> NoReturn:
    """End as a script does, but leave what was imported as it is: to take it apart takes as long as to import it."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(ask(*sys.argv[1:]))
    sys.path[0] = ""
    try:
        runpy.run_path(serve(sys.argv[1]), run_name="__main__")
    except SystemExit as ended:
        left(ended.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        left(1)
    left(0)
