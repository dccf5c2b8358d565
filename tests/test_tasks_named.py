"""Every way out of the data folder that a job of the task `huggingface` could try: nothing outside is ever opened."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from lrtune.errors import TaskError
from tests.serving import served
from tests.test_tasks_huggingface import _offline, made, task

__all__ = ["_offline", "made"]  # fixtures

SECRET = "text,label\nmy secret,a\nmy other secret,b\n"


@pytest.fixture
def house(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a model; beside it what no job may read, as files, and in the worker's own working folder."""
    data, private = tmp_path / "data", tmp_path / "cwd" / "private"
    shutil.copytree(made / "bert", data / "bert")
    shutil.copy(made / "films.csv", data)
    shutil.copytree(made / "bert", tmp_path / "cwd" / "secret-model")
    private.mkdir()
    (private / "train.csv").write_text(SECRET * 20)
    datasets.Dataset.from_dict({"text": ["secret"] * 9, "label": [0, 1, 2] * 3}).save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "cwd")
    return data


def card(folder: Path, files: str) -> None:
    folder.mkdir()
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(files)}\n---\n"
    )


def _saved(data: Path, file: str, words: dict[str, object]) -> None:
    shutil.copytree(data.parent / "saved", data / "films")
    known = json.loads((data / "films" / file).read_text()) if (data / "films" / file).exists() else {}
    (data / "films" / file).write_text(json.dumps(known | words))


def _card_of_a_file(data: Path) -> None:
    card(data / "films", str(data.parent / "cwd" / "private" / "train.csv"))


def _dataset_dict(data: Path) -> None:
    (data / "films").mkdir()
    (data / "films" / "dataset_dict.json").write_text('{"splits": ["../../saved"]}')


def _linked(data: Path) -> None:
    (data / "films").mkdir()
    (data / "films" / "train.csv").symlink_to(data.parent / "cwd" / "private" / "train.csv")


def _linked_twice(data: Path) -> None:
    """A link that stays inside, to a folder with a link that does not."""
    (data / "other").mkdir()
    (data / "other" / "train.csv").symlink_to(data.parent / "cwd" / "private" / "train.csv")
    card(data / "films", "deep/*.csv")
    (data / "films" / "deep").symlink_to(data / "other")


def _pipe(data: Path) -> None:
    (data / "films").mkdir()
    os.mkfifo(data / "films" / "train.csv")


DATASETS: dict[str, tuple[Callable[[Path], object], dict[str, str], str]] = {
    "a folder where the worker was started": (lambda _: None, {"dataset": "private"}, "there is no 'private' below"),
    "a reader's name": (lambda _: None, {"dataset": "csv"}, "dataset: "),
    "a link": (
        lambda data: (data / "films").symlink_to(data.parent / "cwd" / "private"),
        {},
        "'films' leads out of LRTUNE_DATA_DIR",
    ),
    "a linked file": (_linked, {}, "train.csv' leads out of LRTUNE_DATA_DIR"),
    "a link behind a link": (_linked_twice, {}, "has a file that is not its own: '/.*' leads out of LRTUNE_DATA_DIR"),
    "a file of its card": (_card_of_a_file, {}, "README.md' names '/.*; accepted is a file of its own folder"),
    "a climbing file of its card": (
        lambda data: card(data / "films", "../../cwd/private/*.csv"),
        {},
        "README.md' names '../../cwd/private/.*; accepted is a file of its own folder",
    ),
    "an address of its card": (lambda data: card(data / "films", "http://127.0.0.1:1/x.csv"), {}, "names 'http://"),
    "a saved file": (
        lambda data: _saved(
            data, "state.json", {"_data_files": [{"filename": "../../saved/data-00000-of-00001.arrow"}]}
        ),
        {},
        "state.json' names '../../saved",
    ),
    "a saved split": (_dataset_dict, {}, "dataset_dict.json' names '../../saved'"),
    "another kind of card": (
        lambda data: (card(data / "films", "*.csv"), (data / "films" / ".huggingface.yaml").write_text("configs: []")),
        {},
        "has a .huggingface.yaml, which is not read",
    ),
    "a pipe": (_pipe, {}, "is neither a file nor a folder"),
    "a pipe as a file": (lambda data: os.mkfifo(data / "p.csv"), {"dataset": "p.csv"}, "is neither a file nor"),
}


@pytest.mark.parametrize("way", DATASETS)
def test_a_dataset_is_read_below_the_data_folder_or_not_at_all(house: Path, way: str) -> None:
    make, params, words = DATASETS[way]
    make(house)
    with pytest.raises(TaskError, match=words):
        task(house, **{"dataset": "films", **params})


def test_a_column_of_pictures_opens_none_of_the_files_that_it_names(house: Path) -> None:
    os.mkfifo(house.parent / "pipe")  # to open it would be to wait for ever
    (house / "films").mkdir()
    features = "dataset_info:\n  features:\n  - name: text\n    dtype: image\n  - name: label\n    dtype: string\n"
    (house / "films" / "README.md").write_text(f"---\n{features}---\n")
    (house / "films" / "train.csv").write_text(f"text,label\n{house.parent / 'pipe'},a\n" * 3)
    with pytest.raises(TaskError, match="text: the column 'text' holds"):
        task(house, dataset="films")


def _config(data: Path, file: str, **words: object) -> None:
    path = data / "bert" / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | words))


def _linked_weights(data: Path) -> None:
    weights = data / "bert" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(data.parent / "cwd" / "secret-model" / "model.safetensors")


MODELS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a folder where the worker was started": (lambda _: None, "secret-model", "there is no 'secret-model' below"),
    "linked weights": (_linked_weights, "bert", "model.safetensors' leads out of LRTUNE_DATA_DIR"),
    "an index": (
        lambda data: _config(
            data, "model.safetensors.index.json", weight_map={"a": "../../cwd/secret-model/model.safetensors"}
        ),
        "bert",
        "names '../../cwd/secret-model/model.safetensors'; accepted is a file of its own folder",
    ),
    "a vocabulary": (
        lambda data: _config(data, "tokenizer_config.json", vocab_file=str(data.parent / "cwd/private/train.csv")),
        "bert",
        "tokenizer_config.json' names '/.*train.csv', which leads out of LRTUNE_DATA_DIR",
    ),
    "a vocabulary where the worker was started": (
        lambda data: _config(data, "tokenizer_config.json", vocab_file="private/train.csv"),
        "bert",
        "tokenizer_config.json' names 'private/train.csv', which leads out",
    ),
    "another model below": (
        lambda data: _config(data, "adapter_config.json", base_model_name_or_path="secret-model"),
        "bert",
        "is an adapter of another model",
    ),
}


@pytest.mark.parametrize("way", MODELS)
def test_a_model_is_read_below_the_data_folder_or_not_at_all(house: Path, way: str) -> None:
    make, model, words = MODELS[way]
    make(house)
    with pytest.raises(TaskError, match=words):
        task(house, model=model).model()


@pytest.mark.parametrize("subset", ["../private", "..", "a/b", "*"])
def test_a_subset_is_no_path(house: Path, subset: str) -> None:
    with pytest.raises(TaskError, match="accepted is a subset as the hub calls it"):
        task(house, dataset="some/films", subset=subset)


@pytest.mark.parametrize(
    ("name", "params", "pointer"),
    [
        ("huggingface", {"model": "out", "dataset": "films.csv"}, "/task/params/model"),
        ("huggingface", {"model": "bert", "dataset": "out"}, "/task/params/dataset"),
        ("tabular", {"dataset": "out.csv", "target": "label"}, "/task/params/dataset"),
        ("text", {"dataset": "out.csv"}, "/task/params/dataset"),
    ],
)
def test_the_door_neither_reads_nor_accepts_what_a_link_brings_out_of_the_folder(
    house: Path, sqlite_url: str, name: str, params: dict[str, str], pointer: str
) -> None:
    (house / "out").symlink_to(house.parent / "cwd")
    (house / "out.csv").symlink_to(house.parent / "cwd" / "private" / "train.csv")
    with served(sqlite_url, data_dir=house) as http:
        answer = http.post("/v1/jobs", json={"task": {"name": name, "params": params}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert "leads out of LRTUNE_DATA_DIR; accepted is a path that stays below it" in error["detail"]
    assert "secret" not in answer.text
