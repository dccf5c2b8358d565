"""Models and datasets of the Hugging Face libraries by name: below the data folder, in their cache, or from the hub.

Nothing that is loaded here can run code: weights are safetensors, no repository's own Python is trusted. What is in the
cache is taken as it is; the hub is asked for the rest, unless `HF_HUB_OFFLINE` says not to.
"""

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lrtune.errors import TaskError
from lrtune.uploads import delimited
from lrtune.uploads.options import Options
from worker.tasks import named
from worker.tasks.files import locate, reading

SECONDS = 10  # to wait for the hub's first word
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
TOP_LEVEL = ["*.json", "*.safetensors", "*.txt", "*.model"]
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves
ACCEPTED = {
    "model": "a folder below LRTUNE_DATA_DIR as save_pretrained writes it, or the name of a model in that cache",
    "dataset": "a file or a folder below LRTUNE_DATA_DIR, or the name of a dataset in that cache",
}
FILES: Mapping[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {}),
    ".gz": ("csv", {}),
    ".parquet": ("parquet", {}),
    ".pq": ("parquet", {}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".txt": ("text", {"sample_by": "document"}),  # lines are not texts
}
datasets.disable_progress_bars()


def model_folder(name: str, data_dir: Path) -> Path:
    """The folder with a model's weights, configuration and tokenizer. Raises TaskError, in words."""
    folder, root = _below(name, data_dir, field="model"), data_dir
    if folder is None:
        folder = _snapshot(name)
        if folder is None or not _complete(folder):
            folder = _fetched(name, "model", TOP_LEVEL, cached=folder)
        root = folder.parents[1]  # of the repository in the cache, whose snapshots are links
    if not (folder / "config.json").is_file():
        raise TaskError(f"model: {name!r} has no config.json; accepted is a folder as save_pretrained writes it")
    if not _complete(folder):
        found = ", ".join(sorted(one.name for one in folder.iterdir() if one.suffix in PICKLES)) or "no weights"
        raise TaskError(
            f"model: {name!r} has {found}, but no safetensors; other formats are not read, because they may run code. "
            "Load it where it can be trusted, and write it anew with save_pretrained"
        )
    named.check_model(folder, root, name)
    return folder


def splits(name: str, subset: str | None, data_dir: Path) -> dict[str, datasets.Dataset]:
    """A dataset by its splits; one without any is the split train. Raises TaskError, in words."""
    path = _below(name, data_dir, field="dataset")
    if path is None:
        found = _by_name(name, subset)
    elif path.is_file():
        found = _file(path, name, subset, data_dir)
    else:
        with reading(name, "a dataset that save_to_disk wrote, or a folder of data files"):
            found = _folder(path, name, subset, data_dir)
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


def _below(name: str, data_dir: Path, *, field: str) -> Path | None:
    """What the data folder has of this name, if anything. Raises TaskError for what leads out of it."""
    return locate(data_dir, name, field=field) if os.path.lexists(data_dir / name) else None


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _snapshot(name: str) -> Path | None:
    """What the cache has of a model."""
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _fetched(name: str, field: str, patterns: list[str], *, cached: Path | None = None, hint: str = "") -> Path:
    """A repository's files from the hub, or what the cache has of them. Raises TaskError when there is neither."""
    try:
        found = snapshot_download(
            name, repo_type=field, allow_patterns=patterns, ignore_patterns=["*/*"], etag_timeout=SECONDS
        )
        return Path(found)
    except HFValidationError:
        why = "it is no name that the hub could have"
    except HfHubHTTPError as error:
        why = f"the hub does not give it away: {str(error).strip().splitlines()[0]}"
    except (OSError, LocalEntryNotFoundError) as error:
        offline = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else str(error).strip().splitlines()[0]
        why = f"the hub cannot be reached ({offline})"
    if cached is not None:
        return cached
    cache = constants.HF_HUB_CACHE if field == "model" else datasets.config.HF_DATASETS_CACHE
    raise TaskError(
        f"{field}: there is no {name!r} below LRTUNE_DATA_DIR, nor in the cache of Hugging Face ({cache}){hint}, and "
        f"{why}. Accepted is {ACCEPTED[field]}; HF_HOME names another cache"
    )


def _folder(path: Path, name: str, subset: str | None, data_dir: Path) -> Any:
    """A dataset that save_to_disk wrote, or that a folder's files make."""
    named.check_folder(path, data_dir, name, "dataset")
    if any((path / one).is_file() for one in SAVED):
        named.check_saved(path, name)
        return datasets.load_from_disk(str(path))
    named.check_card(path, name)
    return _loaded(str(path), subset, name=name, root=data_dir)


def _by_name(name: str, subset: str | None) -> Any:
    """A dataset from the cache, or from the hub: never from a folder of that name where the worker was started."""
    address = f"hf://datasets/{name}"
    try:
        with _offline():
            return _loaded(address, subset, name=name)
    except TaskError:
        raise
    except Exception as error:  # it is not there, or not this subset of it
        there = f" ({' '.join(str(error).split())})" if isinstance(error, ValueError) else ""
    folder = _fetched(name, "dataset", list(named.CARDS), hint=there)  # quickly says when it cannot be had
    with reading(name, "a dataset of the hub"):
        named.check_card(folder, name)
        return _loaded(address, subset, name=name)


def _file(path: Path, name: str, subset: str | None, data_dir: Path) -> Any:
    if path.suffix not in FILES:
        raise TaskError(f"dataset: {name!r} has the suffix {path.suffix!r}; accepted is one of {', '.join(FILES)}")
    if subset is not None:
        raise TaskError(f"subset: found {subset!r}; {name!r} is a file, which has none")
    builder, options = FILES[path.suffix]
    with reading(name, builder), TemporaryDirectory() as folder:
        if builder == "csv":  # as the server reads it
            form = delimited.form(path, Options(header=True))
            options = {"sep": form.separator, "encoding": form.encoding, "skiprows": int(form.said)}
        options |= {"data_files": glob.escape(str(path)), "cache_dir": folder}
        return _loaded(builder, None, name=name, root=data_dir, keep_in_memory=True, **options)


def _loaded(
    what: str, subset: str | None, *, name: str, root: Path | None = None, keep_in_memory: bool = False, **options: Any
) -> Any:
    """What the library makes of a folder below the root, or of the hub's; where its files lie is looked at first."""
    try:
        builder = datasets.load_dataset_builder(what, subset, **options)
        named.check_files(builder, name, root)
        builder.download_and_prepare()
        return builder.as_dataset(in_memory=keep_in_memory)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None


@contextmanager
def _offline() -> Iterator[None]:
    """Let the library look into its cache only: it would try the hub for half a minute first."""
    before, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
