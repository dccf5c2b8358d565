"""The built-in training problems as the door sees them: their parameters, metrics and usual length. No torch here.

How each is trained stands in `worker/tasks/<name>.py`. Data files are named relative to the workers' `LRTUNE_DATA_DIR`.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lrtune.wire.configuration import Strict
from lrtune.wire.job import EXTERNAL, MetricRange


def _stays(path: str) -> bool:
    return not (path.startswith("/") or ".." in PurePosixPath(path).parts or any(sign in path for sign in "\\\0:"))


def _inside(path: str) -> str:
    if not _stays(path):
        raise ValueError(f"found {path!r}; accepted is a path below LRTUNE_DATA_DIR, such as 'adult.csv'")
    return path


def _named(name: str) -> str:
    if not _stays(name):
        raise ValueError(f"found {name!r}; accepted is a name on the Hugging Face hub, or a path below LRTUNE_DATA_DIR")
    return name


def _subset(name: str) -> str:
    if any(sign in name for sign in "<>:/\\|?*\0") or not name.strip("."):
        raise ValueError(f"found {name!r}; accepted is a subset as the hub calls it: no path, and no pattern")
    return name


DataFile = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_inside)]
HubName = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_named)]
SubsetName = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_subset)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)] | Literal["full"]
Width = Annotated[int, Field(ge=1, le=65_536)]
Layout = Literal["channels-last", "channels-first"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class DigitsParams(Strict):
    """scikit-learn's 1,797 8x8 digits, a small multi-layer perceptron."""

    batch_size: BatchSize = 32
    hidden: Annotated[list[Width], Field(min_length=1, max_length=8)] = [64, 64]
    noise: Annotated[float, Field(ge=0, le=10)] = 0.0


def _mark(mark: str) -> str:
    if mark.isalnum() or mark in "\"'\r\n.-+":
        raise ValueError(f"found {mark!r}; accepted is one sign that stands between fields, such as ';' or a tab")
    return mark


def _codec(name: str) -> str:
    try:
        text = codecs.lookup(name)._is_text_encoding
        "a,1;\n".encode(name)
    except (LookupError, ValueError, UnicodeError):
        text = False
    if not text or name.lower().replace("-", "_") in ("utf_7", "idna", "punycode", "unicode_escape", "undefined"):
        raise ValueError(f"found {name!r}; accepted is an encoding of text, such as 'utf-8', 'cp1252' or 'utf-16'")
    return name


def _words(value: Any) -> Any:
    """One word or number, or a list of them, as a list of words."""
    listed = value if isinstance(value, list | tuple) else [value]
    number = (int, float)
    return [str(one) if isinstance(one, number) and not isinstance(one, bool) else one for one in listed]


Separator = Annotated[str, StringConstraints(min_length=1, max_length=1), AfterValidator(_mark)]
Encoding = Annotated[str, StringConstraints(min_length=1, max_length=40), AfterValidator(_codec)]
Words = Annotated[
    list[Annotated[str, StringConstraints(max_length=255)]], Field(max_length=100), BeforeValidator(_words)
]


class Split(Strict):
    """Which rows to measure on: another dataset, those that a column marks, the last ones in time, or whole groups.

    `value` is what marks them in the column, where it is not a word such as `validation`; `by` is the column of the
    time, where it is not the file's order or its one column of dates; `share` is how much of the groups is measured on.
    """

    dataset: DataFile | None = None
    column: ColumnName | None = None
    value: Annotated[str, StringConstraints(max_length=255)] | bool | int | None = None
    last: Fraction | None = None
    by: ColumnName | None = None
    groups: ColumnName | None = None
    share: Fraction | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {"dataset": (), "column": ("value",), "last": ("by",), "groups": ("share",)}
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise PydanticCustomError("split", f"found {found}; accepted is one of dataset, column, last, groups")
        for way, besides in ways.items():
            for name in besides:
                if way != given[0] and getattr(self, name) is not None:
                    raise PydanticCustomError("split", f"found {name} beside {given[0]}; it goes with {way}")
        return self

    @model_serializer
    def _said(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


def _form(validation: Any) -> str:
    return "split" if isinstance(validation, Mapping | Split) else "share"


Validation = Annotated[
    Annotated[Fraction, Tag("share")] | Annotated[Split, Tag("split")],
    Discriminator(_form),
]


class TabularParams(Strict):
    """A CSV or Parquet file; `target` is a column's name, or its position where the file has no header.

    `decimal`, `separator`, `encoding` and `missing` (words that stand for nothing) are found out where they are not
    said. `validation` is a share of the rows, or says which.
    """

    dataset: DataFile
    target: str | int = -1
    header: bool | None = None
    kind: Literal["auto", "classification", "regression"] = "auto"
    batch_size: BatchSize = 256
    hidden: Annotated[list[Width], Field(min_length=1, max_length=8)] = [128, 128]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    validation: Validation = 0.2
    decimal: Literal[".", ","] | None = None
    separator: Separator | None = None
    encoding: Encoding | None = None
    missing: Words | None = None


class ImagesParams(Strict):
    """An npz file with x and y, or a folder or zip with one folder of pictures a class.

    A split that the file has (x_val, x_test; train/, val/, test/) is used, and otherwise `validation` is the share.
    `layout` is where an npz file with four axes has its channels, for a shape that does not tell.
    """

    dataset: DataFile
    layout: Literal["auto", "channels-last", "channels-first"] = "auto"
    model: Literal["cnn", "resnet"] = "cnn"
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    size: Annotated[int, Field(ge=4, le=1024)] = 32
    batch_size: BatchSize = 128
    validation: Fraction = 0.2


class TextParams(Strict):
    """A text file; a character-level GPT learns to continue it."""

    dataset: DataFile
    layers: Annotated[int, Field(ge=1, le=48)] = 2
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    width: Annotated[int, Field(ge=4, le=8192)] = 64
    context: Annotated[int, Field(ge=2, le=8192)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    validation: Fraction = 0.1

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise PydanticCustomError("heads", f"found {self.heads} heads; accepted is a divisor of width {self.width}")
        return self


class HuggingfaceParams(Strict):
    """A pretrained model and a dataset with a column of text, each by its name or as a path below the data folder.

    `validation` is a split, or a share of the training split; left out it is the split validation or test, or a tenth.
    """

    model: HubName
    dataset: HubName
    subset: SubsetName | None = None
    kind: Literal["classification", "causal-lm"] = "classification"
    text: ColumnName = "text"
    text_pair: ColumnName | None = None
    label: ColumnName = "label"
    max_length: Annotated[int, Field(ge=2, le=8192)] = 128
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    validation: Fraction | ColumnName | None = None
    freeze: Literal["none", "embeddings", "all-but-head"] = "none"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What the door knows of a task: what it is, its parameters, its metrics with goals and ranges, its usual steps.

    `needs` are the packages that a worker must have for it, from the extra of the task's own name.
    """

    name: str
    summary: str
    params: type[Strict]
    metrics: Mapping[str, Literal["minimize", "maximize"]]
    steps: int
    needs: tuple[str, ...] = ()

    @property
    def ranges(self) -> Mapping[str, MetricRange]:
        """The range of each metric."""
        return {name: _RANGES[name] for name in self.metrics}


class ExternalParams(Strict):
    """Nothing: what your loop trains is its own affair."""


# Of all built-in tasks: cross entropies and squared errors, shares of the right answers, absolute errors.
_RANGES: Mapping[str, MetricRange] = {"val_loss": (0.0, None), "val_accuracy": (0.0, 1.0), "val_mae": (0.0, None)}
_CLASSES: Mapping[str, Literal["minimize", "maximize"]] = {"val_loss": "minimize", "val_accuracy": "maximize"}
BUILT_IN: Mapping[str, TaskInfo] = {
    task.name: task
    for task in (
        TaskInfo("digits", "Handwritten digits from scikit-learn; nothing to download.", DigitsParams, _CLASSES, 960),
        TaskInfo(
            "tabular",
            "A table: classification or regression, with missing values and categories.",
            TabularParams,
            {**_CLASSES, "val_mae": "minimize"},
            2000,
        ),
        TaskInfo("images", "Small images: a CNN or a ResNet.", ImagesParams, _CLASSES, 1000),
        TaskInfo("text", "Text: a character-level GPT.", TextParams, {"val_loss": "minimize"}, 1000),
        TaskInfo(
            "huggingface",
            "Fine-tuning a pretrained transformer; workers have it with pip install 'lrtune[worker,huggingface]'.",
            HuggingfaceParams,
            _CLASSES,
            1000,
            needs=("transformers", "datasets"),
        ),
    )
}
EXTERNAL_TASK = TaskInfo(
    EXTERNAL,
    "Your own training loop: it asks for trials and reports; name the metric with its goal, and the horizon in steps.",
    ExternalParams,
    {},
    0,
)
