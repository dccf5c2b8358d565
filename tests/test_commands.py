"""A command of a trial: what it prints is heard whatever it is, and nothing of it outlives its end."""

import os
import signal
import sys
from pathlib import Path

import pytest

from lrtune.command import AT_ONCE, TAIL_CHARACTERS, Command, ended
from tests.commands import alive, waits


def run(text: str) -> tuple[int, str]:
    command = Command([sys.executable, "-c", text], os.environ)
    waits(lambda: not command.alive(group=False))
    return command.end(), command.said()


def test_a_progress_bar_that_never_ends_its_line_is_a_sign_of_life_and_shown_as_a_terminal_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bar = r"""
import os, time
while not os.path.exists("begin"):
    time.sleep(0.02)
print("epoch 1")
print("\r\x1b[32m 10 %", end="", flush=True)
print("\r 20 %", end="", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("." * 1_000_000, end="")
"""
    command = Command([sys.executable, "-c", bar], os.environ)
    began = command.heard_at
    (tmp_path / "begin").touch()
    waits(lambda: command.said() == "epoch 1\n 20 %")
    assert command.heard_at > began
    (tmp_path / "go").touch()
    waits(lambda: not command.alive(group=False))
    assert command.end() == 0
    assert set(command.said()) == {"."}
    assert len(command._kept) == AT_ONCE


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"gr\\xfc\\xdfe", "gr\ufffd\ufffde"),
        (b"\\xe4\\xb8\\xad\\xe6\\x96\\x87", "中文"),
        (b"a\\x00b\\x07", "ab"),
        (b"one\\r\\ntwo\\r\\n", "one\ntwo"),
        (b"\\xff" * 3, "\ufffd" * 3),
    ],
)
def test_output_of_any_encoding_is_text_in_the_end(raw: bytes, shown: str) -> None:
    assert run(f"import sys; sys.stdout.buffer.write(b'{raw.decode()}')") == (0, shown)


def test_a_hundred_megabytes_are_printed_and_only_their_end_is_kept(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, said = run(
        "import sys\nfor at in range(1000): sys.stdout.write('x' * 99_990 + f'{at:9d}\\n')\nprint('the end')"
    )
    assert (code, said.splitlines()[-1]) == (0, "the end")
    assert len(said) <= TAIL_CHARACTERS


def test_what_a_command_leaves_behind_is_ended_and_waited_for_no_longer(tmp_path: Path) -> None:
    here = tmp_path / "pids"
    sleeping = f"echo $$ >> {here}; exec sleep 600"
    words = f"sh -c '{sleeping}' & setsid sh -c '{sleeping}' & while [ $(wc -l < {here}) -lt 2 ]; do :; done; echo done"
    here.touch()
    command = Command(["sh", "-c", words], os.environ)
    waits(lambda: not command.alive(group=False))
    assert command.end() == 0
    assert command.said() == "done"
    assert not command._reader.is_alive(), "what holds its output open keeps nobody waiting"
    (left,) = [process for line in here.read_text().split() if alive(process := int(line))]
    assert os.getsid(left) == left, "one made a session of its own: it is not ours to end"
    os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "the command ended with exit code 3"),
        (-15, "the command was ended by SIGTERM"),
        (-9, "the command was ended by SIGKILL, as where there is no more memory"),
        (137, "the command ended with exit code 137, as where there is no more memory"),
        (-63, "the command was ended by signal 63"),
    ],
)
def test_an_exit_code_is_said_in_words(code: int, words: str) -> None:
    assert ended(code) == words
