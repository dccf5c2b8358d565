"""`huggingface`: a pretrained transformer, fine-tuned on a column of text to predict its label, or to continue it.

The texts become token numbers once, before training. An epoch of `causal-lm` is every block of `max_length` tokens of
all texts in a row; validation looks at the same examples each time.
"""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lrtune.errors import TaskError
from lrtune.feeding import read
from lrtune.task import Task, moved
from lrtune.wire.tasks import HuggingfaceParams
from worker.tasks.batches import order, per_epoch
from worker.tasks.files import reading
from worker.tasks.hub import model_folder, splits
from worker.tasks.texts import Rows, blocks, labelled, parts

CPU = torch.device("cpu")
VALIDATION = 1024  # examples at most, evenly spread: an evaluation is to cost little beside the training
AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "causal-lm": transformers.AutoModelForCausalLM,
}
SAFE: Mapping[str, Any] = {"trust_remote_code": False, "local_files_only": True}
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker has as many threads as its settings say
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def prepare(params: HuggingfaceParams, data_dir: Path) -> "Finetuning":
    """The task of these parameters. Raises TaskError for a model or a dataset that is not there, or does not fit."""
    folder = model_folder(params.model, data_dir)
    with reading(params.model, "a tokenizer", field="model"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **SAFE)
    both = parts(splits(params.dataset, params.subset, data_dir), params)
    make = labelled if params.kind == "classification" else blocks
    with reading(params.model, "a model's configuration", field="model"):
        config = transformers.AutoConfig.from_pretrained(folder, **SAFE)
    train, validation, classes = make(both, tokenizer, config, params)
    config.name_or_path = params.model  # not where it lies on this machine
    config.use_cache = False
    if classes:
        config.num_labels = classes
    files = tuple(sorted(one for one in folder.iterdir() if one.suffix in (".safetensors", ".json")))
    seen = torch.linspace(0, len(validation["input_ids"]) - 1, min(len(validation["input_ids"]), VALIDATION)).long()
    validation = {name: tensor[seen] for name, tensor in validation.items()}
    return Finetuning(params, config, files, train, validation, fresh=_fresh(folder, config, params))


@dataclass(frozen=True)
class Finetuning(Task):
    """A pretrained model and rows of token numbers; `fresh` are the weights that did not come with the model."""

    params: HuggingfaceParams
    config: Any
    files: tuple[Path, ...]
    train: Rows
    validation: Rows
    fresh: frozenset[str]
    metrics: Sequence[str] = field(init=False)
    steps_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        names = ("val_loss", "val_accuracy") if self.params.kind == "classification" else ("val_loss",)
        object.__setattr__(self, "metrics", names)
        object.__setattr__(self, "steps_per_epoch", per_epoch(len(self.train["input_ids"]), self.params.batch_size))

    def model(self) -> nn.Module:
        """The pretrained model with a new head where it has none; what is to stay as it is, is frozen."""
        model: nn.Module = _load(self.files[0].parent, self.config, self.params)[0]
        for parameter in self._frozen(model):
            parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise TaskError(f"freeze: found {self.params.freeze!r}, which leaves nothing of {self.params.model!r}")
        return model.train()

    def batches(self, seed: int) -> Iterator[Rows]:
        """Rows in the order of the seed, cut to the longest of each batch."""
        return self.batches_from(seed, 0)

    def batches_from(self, seed: int, start: int) -> Iterator[Rows]:
        """The same without the first `start`."""
        for places in order(len(self.train["input_ids"]), self.params.batch_size, seed=seed, device=CPU, start=start):
            yield _cut(self.train, places)

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """The mean cross entropy, of the label or of the next token, in nats."""
        return self._losses(model, batch)[0].mean()

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The means over the validation examples."""
        device, count = next(model.parameters()).device, len(self.validation["input_ids"])
        parts, means, rights = torch.split(torch.arange(count), self.params.batch_size), list[Tensor](), list[Tensor]()
        for places in parts:
            losses, right = self._losses(model, moved(_cut(self.validation, places), device))
            means.append(losses.mean())
            rights.append(right.sum())
        loss = sum(mean * len(places) for mean, places in zip(read(means), parts, strict=True))
        found = {"val_loss": loss / count, "val_accuracy": sum(read(rights)) / count}
        return {name: found[name] for name in self.metrics}

    def groups(self, model: nn.Module) -> Iterable[Mapping[str, Any]]:
        """All at one rate, or each layer at `layer_decay` times the rate of the one above it."""
        if self.params.layer_decay == 1:
            return [{"params": model.parameters()}]
        by_depth: dict[int, list[nn.Parameter]] = {}
        for parameter, depth in _depths(model, self.config):
            by_depth.setdefault(depth, []).append(parameter)
        return [{"params": those, "rate": self.params.layer_decay**depth} for depth, those in sorted(by_depth.items())]

    def _losses(self, model: nn.Module, batch: Rows) -> tuple[Tensor, Tensor]:
        """The cross entropy of each prediction, and whether it was right."""
        scores = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        if self.params.kind == "causal-lm":
            scores, targets = scores[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
        else:
            targets = batch["labels"]
        return F.cross_entropy(scores, targets, reduction="none"), scores.argmax(1) == targets

    def _frozen(self, model: nn.Module) -> list[nn.Parameter]:
        if self.params.freeze == "embeddings":
            return [one for part in model.modules() if isinstance(part, nn.Embedding) for one in part.parameters()]
        if self.params.freeze == "none":
            return []
        fresh = {id(one) for name, one in model.named_parameters() if name in self.fresh}
        body: Any = model.base_model
        return [one for one in body.parameters() if id(one) not in fresh]


def _load(folder: Path, config: Any, params: HuggingfaceParams) -> tuple[nn.Module, Mapping[str, Any]]:
    """The model, and what the library says of how its weights fitted. A head of another size is made anew."""
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True, **SAFE}
    with reading(params.model, f"a model for {params.kind}", field="model"):
        model, info = AUTO[params.kind].from_pretrained(
            folder, config=copy.deepcopy(config), dtype=torch.float32, **options
        )
    return model, info


def _fresh(folder: Path, config: Any, params: HuggingfaceParams) -> frozenset[str]:
    """The weights that the model's files do not have. Raises TaskError when they are not those of this model."""
    model, info = _load(folder, config, params)
    fresh = {*info["missing_keys"], *(one[0] for one in info["mismatched_keys"])}
    body: Any = model.base_model
    names = {id(one): name for name, one in model.named_parameters()}
    inside = [names[id(one)] in fresh for one in body.parameters()]
    if sum(inside) > len(inside) / 2:
        raise TaskError(f"model: the weights of {params.model!r} are not those that its config.json describes")
    return frozenset(fresh)


def _cut(rows: Rows, places: Tensor) -> Rows:
    """Some rows, without the columns that are padding in all of them."""
    mask = rows.get("attention_mask")
    width = rows["input_ids"].shape[1] if mask is None else max(1, int(mask[places].sum(dim=1).max()))
    return {name: rows[name][places] if rows[name].dim() == 1 else rows[name][places, :width] for name in rows}


def _depths(model: nn.Module, config: Any) -> Iterator[tuple[nn.Parameter, int]]:
    """Every parameter with how many layers stand above its own: 0 is the head, the embeddings are deepest."""
    count = getattr(config, "num_hidden_layers", 0)
    lists = (name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    layers = next(lists, None)
    if layers is None:
        raise TaskError("layer_decay: this model's layers cannot be told apart; accepted is 1")
    depth = count + 1
    for name, parameter in model.named_parameters():
        if name.startswith(f"{layers}."):
            depth = count - int(name.removeprefix(f"{layers}.").partition(".")[0])
        elif depth <= count:
            depth = 0
        yield parameter, depth
