"""Tasks that installed packages offer: found by the entry-point group `lrtune.tasks`, and left out when broken."""

import logging
from pathlib import Path

import pytest

from worker.tasks import own

PACKAGE = '''
from lrtune.task import Task

class Waves(Task):
    """Waves by their shape."""

    def model(self): ...
    def loss(self, model, batch): ...

class Half(Task):
    def model(self): ...
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package with these entry points, as pip leaves one."""

    def install(points: str) -> None:
        (tmp_path / "waves_of_theirs.py").write_text(PACKAGE)
        info = tmp_path / "waves_of_theirs-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waves-of-theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lrtune.tasks]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_task_of_an_installed_package_is_found_by_its_name(installed) -> None:
    installed("waves = waves_of_theirs:Waves")
    found = own.find(None)
    assert own.summary("waves", found["waves"]).summary == "Waves by their shape."
    assert own.make("waves", found["waves"], {}, Path()).steps == 1000


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("digits = waves_of_theirs:Waves", "digits is the name of a built-in task"),
        ("external = waves_of_theirs:Waves", "external is the name of a built-in task"),
        ("half = waves_of_theirs:Half", "half: Half does not say its loss"),
        ("gone = waves_of_theirs:Gone", "waves_of_theirs has no Gone; its tasks are Waves, Half"),
        ("away = no_such_module:Waves", "there is no module 'no_such_module'"),
    ],
)
def test_one_that_does_not_work_is_logged_and_left_out(
    installed, caplog: pytest.LogCaptureFixture, point: str, words: str
) -> None:
    installed(f"{point}\nwaves = waves_of_theirs:Waves")
    with caplog.at_level(logging.WARNING, logger="lrtune.worker"):
        assert list(own.find(None)) == ["waves"]
    assert words in caplog.text
