"""What the files of a model or a dataset name in turn: cards, indexes and configurations may point anywhere.

Every such file must lie where its model or dataset lies: below the data folder, or in the repository of the hub. What
leads elsewhere is refused before anything of it is opened.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from huggingface_hub import DatasetCard

from lrtune.errors import TaskError, UnusableFile
from lrtune.uploads.places import below

CARDS = (datasets.config.REPOCARD_FILENAME, datasets.config.REPOYAML_FILENAME)
READERS = ("csv", "json", "parquet", "text", "arrow", "cache")  # of the library: those that read tables of text
PACKED = ("zip://", "gzip://", "bz2://", "xz://", "tar://", "zstd://", "lz4://")  # a file inside a file
OPENED = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
REMARKS = ("name_or_path", "_name_or_path")  # where it once came from, which nobody opens


def check_folder(folder: Path, root: Path, name: str, field: str) -> None:
    """Raise TaskError for a link in a folder that leads out of the root, and for a pipe or a device."""
    for one in folder.rglob("*"):
        _check(root, one, name, field)


def check_model(folder: Path, root: Path, name: str) -> None:
    """Raise TaskError for a model of which any file lies, or names one that lies, outside of the root."""
    check_folder(folder, root, name, "model")
    if (folder / "adapter_config.json").exists():
        raise TaskError(f"model: {name!r} is an adapter of another model; merge the two, and save it anew")
    for index in folder.glob("*.index.json"):
        shards = _json(index, name, "model").get("weight_map", {})
        _plain((str(one) for one in shards.values()) if isinstance(shards, dict) else (), name, "model")
    for file in OPENED:
        if (folder / file).is_file():
            for text in _texts(_json(folder / file, name, "model")):
                _check_text(root, text, f"{name}/{file}")


def check_card(folder: Path, name: str) -> None:
    """Raise TaskError for a dataset's card whose data files are elsewhere: nothing there is even listed."""
    card, other = (folder / one for one in CARDS)
    if other.exists():
        raise TaskError(f"dataset: {name!r} has a {other.name}, which is not read; write its configs into {card.name}")
    if card.is_file():
        said = DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()
        _plain(_patterns(said.get("configs")), f"{name}/{card.name}", "dataset", deep=True)


def check_saved(folder: Path, name: str) -> None:
    """Raise TaskError for what save_to_disk has not written: a part, or a file of one, that is not in its folder."""
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        splits = [str(one) for one in _json(folder / "dataset_dict.json", name, "dataset").get("splits", [])]
        _plain(splits, f"{name}/dataset_dict.json", "dataset")
        parts = [folder / one for one in splits]
    for part in parts:
        if (part / "state.json").is_file():
            files = _json(part / "state.json", name, "dataset").get("_data_files", [])
            _plain((str(one["filename"]) for one in files), f"{name}/state.json", "dataset")


def check_files(builder: datasets.DatasetBuilder, name: str, root: Path | None) -> None:
    """Raise TaskError for a dataset that would be read from elsewhere than below the root, or the hub's repository."""
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in READERS:
        raise TaskError(f"dataset: {name!r} holds {reader}; accepted is one of {', '.join(READERS[:-1])}")
    files: Any = builder.config.data_files or {}
    for file in (str(one) for those in files.values() for one in those):
        *inner, outer = file.split("::")
        if not all(one.startswith(PACKED) for one in inner):
            raise TaskError(f"dataset: {name!r} names {file!r}; accepted are files of its own")
        if root is not None and "://" not in outer:
            _check(root, Path(outer), name, "dataset")
        elif root is not None or not outer.startswith(f"hf://datasets/{name}@"):
            raise TaskError(f"dataset: {name!r} names {file!r}, which is not its own; accepted are files of its own")


def _check(root: Path, path: Path, name: str, field: str) -> None:
    try:
        below(root, path.absolute())
    except UnusableFile as error:
        raise TaskError(f"{field}: {name!r} has a file that is not its own: {error}") from None


def _check_text(root: Path, text: str, where: str) -> None:
    """A text that is the name of a file of this machine: it would be opened."""
    try:
        if text and Path(text).exists() and not Path(text).resolve().is_relative_to(root.resolve()):
            raise TaskError(f"model: {where!r} names {text!r}, which leads out of LRTUNE_DATA_DIR; leave it out")
    except (OSError, ValueError):  # longer than a name can be: no file
        return


def _json(file: Path, name: str, field: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"{field}: {name!r} could not be read as JSON ({file.name}): {error}") from None
    return found if isinstance(found, dict) else {}


def _texts(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, str) and key not in REMARKS:
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _patterns(value: Any, key: str = "") -> Iterator[str]:
    """The data files, folders and patterns of a card's configurations."""
    if isinstance(value, str) and key in ("data_files", "data_dir", "path"):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _patterns(one, key if key == "data_files" else name)
    elif isinstance(value, list):
        for one in value:
            yield from _patterns(one, key)


def _plain(names: Iterable[str], where: str, field: str, *, deep: bool = False) -> None:
    """Raise TaskError for a name that is no file of this very folder, or, where it may lie `deep`, below it."""
    for one in names:
        parts = PurePosixPath(one).parts
        packed = one.startswith(PACKED) and one.count("::") == 1
        inside = one.rpartition("::")[2] if packed else one
        if (
            ".." in parts
            or inside.startswith("/")
            or "://" in inside
            or "\\" in inside
            or (len(parts) != 1 and not deep)
        ):
            raise TaskError(f"{field}: {where!r} names {one!r}; accepted is a file of its own folder")
