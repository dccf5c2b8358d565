"""Eight networks as people write them, for `benchmarks.gpu` and the tests on a GPU: tasks of one's own, data made up.

Nothing is downloaded; `small` makes each one small enough to be tried on a CPU. Most have an operation for which torch
has no deterministic algorithm on a GPU, which is why they are here.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import TensorDataset

from lrtune.task import Task
from lrtune.wire.configuration import Strict

Example = tuple[Tensor, Tensor]
CLASSES = 10
BERT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "num_labels": CLASSES,
}


class NetParams(Strict):
    """Whether the network and its data are small enough for a CPU."""

    small: bool = False
    batch_size: int = 64


class Made(Task):
    """A classifier of made-up examples: random inputs, and as labels what a random linear map makes of them."""

    Params = NetParams
    params: NetParams
    ranges = {"val_loss": (0, None)}
    shape: tuple[int, ...] = (3, 64, 64)
    small_shape: tuple[int, ...] = (3, 16, 16)
    steps = 40

    def train_set(self) -> Any:
        """Examples to train on."""
        return TensorDataset(*self._pair(512 if self.params.small else 4096, seed=0))

    def validation_set(self) -> Any:
        """Examples to measure on."""
        return TensorDataset(*self._pair(128, seed=1))

    def loss(self, model: nn.Module, batch: Example) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(model(batch[0]), batch[1])

    def _pair(self, count: int, *, seed: int) -> Example:
        shape = self.small_shape if self.params.small else self.shape
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
        return x, self._labels(x)

    def _labels(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        directions = torch.randn(flat.shape[1], CLASSES, generator=torch.Generator().manual_seed(2))
        return (flat @ directions).argmax(dim=1)


class Residual(nn.Module):
    """Two convolutions with batch norms beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs and stride == 1
        wider = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else wider

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        inner = F.relu(self.norms[0](self.one(x)), inplace=True)
        return F.relu(self.norms[1](self.two(inner)) + self.shortcut(x), inplace=True)


class ResNet18(Made):
    """ResNet-18 with its batch norms and adaptive average pooling."""

    def model(self) -> nn.Module:
        """The network."""
        w = 8 if self.params.small else 64
        blocks = [Residual(w * i, w * o, s) for i, o, s in ((1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1))]
        blocks += [Residual(w * i, w * o, s) for i, o, s in ((2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1))]
        stem = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * w, CLASSES))


class UNet(nn.Module):
    """Down twice by pooling, up twice by bilinear interpolation, with shortcuts across."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, 1, 1) for i, o in ((3, width), (width, width), (width, width)))
        self.up = nn.ModuleList(nn.Conv2d(2 * width, width, 3, 1, 1) for _ in range(2))
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] to [n, classes, h, w]."""
        seen = []
        for place, layer in enumerate(self.down):
            x = F.relu(layer(F.max_pool2d(x, 2) if place else x))
            seen.append(x)
        for layer, before in zip(self.up, reversed(seen[:-1]), strict=True):
            x = F.interpolate(x, size=before.shape[2:], mode="bilinear", align_corners=False)
            x = F.relu(layer(torch.cat([x, before], 1)))
        scores: Tensor = self.head(x)
        return scores


class Segmentation(Made):
    """A class for each pixel: interpolation, and a cross entropy over places."""

    def model(self) -> nn.Module:
        """The network."""
        return UNet(8 if self.params.small else 64)

    def _labels(self, x: Tensor) -> Tensor:
        return ((x.mean(1) * 4).round().long() + CLASSES // 2).clamp(0, CLASSES - 1)


class MaxPooled(Made):
    """A CNN that ends in adaptive max pooling."""

    def model(self) -> nn.Module:
        """The network."""
        w = 8 if self.params.small else 64
        body = [nn.Conv2d(3, w, 3, 1, 1), nn.ReLU(), nn.Conv2d(w, 2 * w, 3, 2, 1), nn.ReLU()]
        return nn.Sequential(*body, nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(18 * w, CLASSES))


class Recurrent(nn.Module):
    """An LSTM over sequences of different lengths, and a layer over its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(100, width, padding_idx=0), nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """[n, time] of codes, and how many of each count, to [n, classes]."""
        packed = pack_padded_sequence(self.embedding(codes), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        scores: Tensor = self.head(last[-1])
        return scores


class Packed(Made):
    """An LSTM with packed sequences, padded by a collate of its own."""

    def model(self) -> nn.Module:
        """The network."""
        return Recurrent(16 if self.params.small else 256)

    def train_set(self) -> list[Example]:
        """Sequences of 5 to 40 codes, each with its label."""
        return self._sequences(256 if self.params.small else 2048, seed=0)

    def validation_set(self) -> list[Example]:
        """The same."""
        return self._sequences(128, seed=1)

    def collate(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, lengths, labels."""
        codes, labels = zip(*examples, strict=True)
        return (
            pad_sequence(list(codes), batch_first=True),
            torch.tensor([len(one) for one in codes]),
            torch.stack(labels),
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """The cross entropy."""
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    def _sequences(self, count: int, *, seed: int) -> list[Example]:
        drawn = torch.Generator().manual_seed(seed)
        lengths = torch.randint(5, 41, (count,), generator=drawn).tolist()
        codes = [torch.randint(1, 100, (length,), generator=drawn) for length in lengths]
        return [(one, one[-1] % CLASSES) for one in codes]


class Vit(nn.Module):
    """Patches, a class token, a transformer."""

    def __init__(self, width: int, layers: int, patches: int) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, width, 8, 8), nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, patches + 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, activation="gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] to [n, classes]."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        scores: Tensor = self.head(self.body(x)[:, 0])
        return scores


class VisionTransformer(Made):
    """A ViT with dropout."""

    def model(self) -> nn.Module:
        """The network."""
        return Vit(32, 2, 4) if self.params.small else Vit(192, 6, 64)


class BatchNormed(Made):
    """An MLP with batch norms and dropout."""

    shape, small_shape = (256,), (32,)

    def model(self) -> nn.Module:
        """The network."""
        i, w = (32, 32) if self.params.small else (256, 512)
        layers = [nn.Linear(i, w), nn.BatchNorm1d(w), nn.ReLU(), nn.Dropout(0.1), nn.Linear(w, w), nn.BatchNorm1d(w)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(w, CLASSES))


class Gpt2(Made):
    """GPT-2 of 124 million parameters on made-up tokens, its embedding tied to its head."""

    def __init__(self, params: Any = None, *rest: Any) -> None:
        super().__init__(params, *rest)
        small = self.params.small
        self.width, self.layers, self.words, self.context = (64, 2, 512, 64) if small else (768, 12, 50257, 1024)
        self._batch = 4 if small else 8

    def model(self) -> nn.Module:
        """The network."""
        return Decoder(self.width, self.layers, self.words, self.context)

    @property
    def _batch_size(self) -> int:
        return self._batch

    def _pair(self, count: int, *, seed: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        drawn = torch.Generator().manual_seed(seed)
        return (torch.randint(0, min(self.words, 256), (count // 8, self.context + 1), generator=drawn),)

    def loss(self, model: nn.Module, batch: tuple[Tensor]) -> Tensor:  # type: ignore[override]
        """The cross entropy of the next token."""
        return F.cross_entropy(model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())


class Decoder(nn.Module):
    """GPT-2's architecture over torch's own transformer layer."""

    def __init__(self, width: int, layers: int, words: int, context: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(width, max(1, width // 64), 4 * width, 0.0, "gelu", batch_first=True)
        layer.norm_first = True
        self.body = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, words, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, codes: Tensor) -> Tensor:
        """[n, time] of tokens to [n, time, words] of scores."""
        time = codes.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(time, device=codes.device)
        x = self.words(codes) + self.places.weight[:time]
        scores: Tensor = self.head(self.body(x, mask=mask, is_causal=True))
        return scores


class TinyBert(Made):
    """A tiny BERT of Hugging Face's, its body slower than its head, on made-up texts of different lengths."""

    metrics: Mapping[str, Any] = {"val_loss": "minimize"}

    def model(self) -> nn.Module:
        """The network; its weights were made up once, as if they had been trained before."""
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(**BERT)
        model: nn.Module = BertForSequenceClassification(config)
        return model

    def groups(self, model: nn.Module) -> Any:
        """The body at a tenth of the rate."""
        body, head = model.bert, model.classifier
        return [{"params": body.parameters(), "rate": 0.1}, {"params": head.parameters()}]  # type: ignore[union-attr]

    def _pair(self, count: int, *, seed: int) -> Any:
        drawn = torch.Generator().manual_seed(seed)
        codes = torch.randint(5, 512, (count, 48), generator=drawn)
        lengths = torch.randint(8, 49, (count, 1), generator=drawn)
        mask = (torch.arange(48) < lengths).long()
        return codes * mask, mask, codes[:, 0] % CLASSES

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """The cross entropy."""
        loss: Tensor = model(input_ids=batch[0], attention_mask=batch[1], labels=batch[2]).loss
        return loss


NETS: dict[str, tuple[type[Made], dict[str, Any]]] = {
    "ResNet-18": (ResNet18, {}),
    "segmentation": (Segmentation, {}),
    "adaptive max pooling": (MaxPooled, {}),
    "LSTM, packed": (Packed, {}),
    "ViT": (VisionTransformer, {}),
    "GPT-2 124M, bf16": (Gpt2, {"precision": "bfloat16"}),
    "batch-norm MLP": (BatchNormed, {}),
    "tiny BERT": (TinyBert, {}),
}


def missing(name: str) -> str:
    """The package that a network needs and that is not here."""
    return "transformers" if name == "tiny BERT" and not find_spec("transformers") else ""
