"""The wheel, installed in a virtual environment of its own, is the whole service: from an empty folder to an answer."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOB = {"task": "digits", "horizon": {"steps": 40}, "budget": {"full_runs": 2}, "confirm": {"top": 1, "seeds": 1}}


@pytest.fixture(scope="module")
def lrtune(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of an environment with this wheel and our dependencies, which knows nothing of the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # what it links to itself is not followed
    return [str(folder / "venv" / "bin" / "python"), "-c", "from lrtune.cli.commands import app; app()"]


@contextmanager
def running(command: list[str], folder: Path, until: str) -> Iterator[str]:
    """A program that has said a line with `until` in it, the line."""
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield next((line for line in process.stderr if until in line), "it has ended")
        finally:
            process.terminate()
            process.stderr.read()
    assert process.returncode in (0, -15)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("LRTUNE_", "PYTHON"))} | more


@pytest.mark.timeout(300)
def test_the_installed_package_serves_works_and_answers_from_an_empty_folder(lrtune: list[str], tmp_path: Path) -> None:
    with running([*lrtune, "serve", "--port", "0"], tmp_path, "Uvicorn running") as line:
        (url,) = re.findall(r"http://[\d.:]+", line)
        with running([*lrtune, "worker"], tmp_path, "is ready"):
            submitted = subprocess.run(
                [*lrtune, "submit", "-", "--watch"],
                input=json.dumps(JOB),
                cwd=tmp_path,
                env=environment(LRTUNE_URL=url),
                capture_output=True,
                text=True,
                check=False,
            )
    assert (submitted.returncode, submitted.stderr) == (0, "")
    assert "succeeded" in submitted.stdout


def test_an_installed_package_shadows_nobodys_app_or_worker(lrtune: list[str]) -> None:
    found = "from importlib.util import find_spec; print([find_spec(n) for n in ('app', 'worker', 'migrations')])"
    said = subprocess.run(
        [lrtune[0], "-c", found], cwd="/", env=environment(), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[None, None, None]"


def test_a_program_without_its_dependencies_says_what_to_install(lrtune: list[str], tmp_path: Path) -> None:
    bare = [lrtune[0], "-c", f"import sys; sys.modules['torch'] = None; {lrtune[2]}", "worker"]
    said = subprocess.run(
        bare, cwd=tmp_path, env=environment(COLUMNS="200"), capture_output=True, text=True, check=False
    )
    assert (said.returncode, "pip install 'lrtune[worker]'" in said.stderr) == (2, True), said.stderr
