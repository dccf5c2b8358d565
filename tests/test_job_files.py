"""Jobs in files, as people and their editors write them."""

from pathlib import Path

import pytest

from lrtune.errors import Invalid
from lrtune.job_file import job_file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_job_is_read_with_and_without_the_mark_that_windows_puts_first(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"task": "digits", "name": "grün"}', encoding=encoding)
    assert job_file(str(path)) == {"task": "digits", "name": "grün"}


def test_a_job_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    with pytest.raises(Invalid) as refused:
        job_file(str(path))
    assert str(refused.value) == f"{path}: No such file or directory"
