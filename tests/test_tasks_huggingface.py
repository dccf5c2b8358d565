"""Fine-tuning: tiny real models with real tokenizers on tiny real datasets, made on the spot; nothing is downloaded."""

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
import torch
import transformers  # its models are imported as they are asked for, which is not when tests are collected
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import worker.tasks
from lrtune.errors import TaskError
from lrtune.store import Database, workers
from lrtune.task import Task
from lrtune.wire.job import Metric, TaskSpec
from tests.serving import served
from tests.test_states import Lab
from tests.test_trainer import Seen, run, trial
from worker.digest import task_digest
from worker.tasks import prepare

GOOD = ("a good film", "it is a fine film", "good and fine")
BAD = ("a bad film", "it is an awful film", "bad and awful")
ROWS = {"text": [*GOOD, *BAD] * 20, "label": [*["pos"] * 3, *["neg"] * 3] * 20}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {"batch_size": 8, "max_length": 16}


def tokenizer(*names: str) -> "transformers.PreTrainedTokenizerFast":
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(ROWS["text"], trainers.WordLevelTrainer(special_tokens=special))
    ends = [(one, made.token_to_id(one)) for one in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask", *names],
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "eos_token": "[SEP]"},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two models, and a table, a saved dataset and a text."""
    folder, words = tmp_path_factory.mktemp("data"), tokenizer()
    size, torch_state = len(words), torch.get_rng_state()
    torch.manual_seed(1)
    transformers.BertModel(
        transformers.BertConfig(vocab_size=size, max_position_embeddings=20, **SIZES)
    ).save_pretrained(folder / "bert")
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=20, eos_token_id=3, bos_token_id=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt")
    torch.set_rng_state(torch_state)
    words.save_pretrained(folder / "gpt")
    tokenizer("token_type_ids").save_pretrained(folder / "bert")
    rows = datasets.Dataset.from_dict(ROWS)
    rows.to_pandas().to_csv(folder / "films.csv", index=False)
    rows.to_pandas().to_csv(folder / "excel.csv", sep=";", index=False, encoding="utf-16")
    rows.to_pandas().to_csv(folder / "films.tsv.gz", sep="\t", index=False)
    rows.to_json(folder / "films.jsonl")
    rows.to_parquet(folder / "films.parquet")
    rows.class_encode_column("label").train_test_split(0.25, seed=0).save_to_disk(folder / "films")
    (folder / "films.txt").write_text("\n".join(ROWS["text"]))
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network, with an empty cache of its own."""
    torch.set_num_threads(1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def task(folder: Path, *, model: str = "bert", dataset: str = "films.csv", **params) -> Task:
    given = {"model": model, "dataset": dataset, **SMALL, **params}
    return prepare(TaskSpec(name="huggingface", params=given), folder)


LANGUAGE = {"model": "gpt", "kind": "causal-lm"}


@pytest.mark.parametrize(
    "params", [{}, {"model": "gpt"}, LANGUAGE, {"layer_decay": 0.8, "freeze": "embeddings"}], ids=str
)
def test_fine_tuning_learns_and_gives_the_same_bits_twice(made: Path, params: dict[str, object]) -> None:
    found, asked = task(made, **params), trial(horizon=60, learning_rate=0.02)
    weights, curves = [], []
    for _ in range(2):
        seen = Seen(found)
        seen.groups = found.groups  # type: ignore[method-assign]
        outcome, reports = run(seen, asked)
        weights.append([one.clone() for one in seen.models[-1].state_dict().values()])
        curves.append([report.metrics for report in reports])
    assert curves[0] == curves[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert curves[0][-1]["val_loss"] < 0.8 * curves[0][0]["val_loss"]
    assert outcome.value == curves[0][-1]["val_loss"]


def test_films_are_told_apart_by_their_words(made: Path) -> None:
    _, reports = run(task(made), trial(horizon=60), metric=Metric(name="val_accuracy", goal="maximize"))
    assert reports[-1].metrics["val_accuracy"] == 1.0


@pytest.mark.parametrize("dataset", ["films.csv", "excel.csv", "films.tsv.gz", "films.jsonl", "films.parquet", "films"])
def test_the_same_rows_come_from_every_kind_of_file(made: Path, dataset: str) -> None:
    found = task(made, dataset=dataset, **({"validation": 0.25} if dataset != "films" else {}))
    count = len(found.train["labels"]), len(found.validation["labels"])
    assert count == (90, 30)
    assert found.steps_per_epoch == 90 // 8
    assert found.train["input_ids"].shape[1] == 7, "the longest text and its two ends"
    assert (found.train["labels"].bincount() + found.validation["labels"].bincount()).tolist() == [60, 60]


def test_a_text_file_is_one_text_that_is_continued(made: Path) -> None:
    words = sum(len(text.split()) for text in ROWS["text"])
    found = task(made, dataset="films.txt", **LANGUAGE)
    assert len(found.train["input_ids"]) + len(found.validation["input_ids"]) == (words + 1) // 16
    assert (found.metrics, set(found.train)) == (("val_loss",), {"input_ids"})


def test_batches_follow_the_seed_go_on_from_anywhere_and_are_no_wider_than_they_must(made: Path) -> None:
    found = task(made)
    first, again = (list(islice(found.batches(3), 20)) for _ in range(2))
    later, other = next(found.batches_from(3, 17)), list(islice(found.batches(4), 20))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[17]["input_ids"], later["input_ids"])
    assert [one["labels"].tolist() for one in first] != [one["labels"].tolist() for one in other]
    one = next(task(made, batch_size=1).batches(0))
    assert one["attention_mask"].all()


def test_a_pair_of_columns_is_read_as_a_pair(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert", tmp_path / "bert")
    pairs = {"one": ["good", "bad"] * 10, "two": ["film", "fine"] * 10, "same": [1, 0] * 10}
    datasets.Dataset.from_dict(pairs).to_parquet(tmp_path / "pairs.parquet")
    found = task(tmp_path, dataset="pairs.parquet", text="one", text_pair="two", label="same", batch_size=4)
    words = tokenizer()
    shown = {words.decode(row) for row in found.train["input_ids"]}
    assert shown == {"[CLS] good [SEP] film [SEP]", "[CLS] bad [SEP] fine [SEP]"}
    assert found.train["token_type_ids"].sum(dim=1).tolist() == [2] * len(found.train["labels"])


def test_rows_without_text_or_label_are_left_out(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert", tmp_path / "bert")
    names = datasets.ClassLabel(names=["no", "yes"])
    rows = {"text": ["good", None, "bad", "fine"] * 5, "label": [1, 0, -1, 0] * 5}
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "some")
    found = task(tmp_path, dataset="some", validation=0.5)
    assert len(found.train["labels"]) == len(found.validation["labels"]) == 5


def test_a_label_is_one_value_a_row_and_nan_is_none(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert", tmp_path / "bert")
    stars, lists = [1.0, float("nan"), 2.0, 2.0] * 5, [[1], [], [2], [2]] * 5
    rows = datasets.Dataset.from_dict({"text": ["good", "film", "bad", "fine"] * 5, "stars": stars, "lists": lists})
    rows.to_parquet(tmp_path / "some.parquet")
    found = task(tmp_path, dataset="some.parquet", label="stars", validation=0.2)
    assert (len(found.train["labels"]), len(found.validation["labels"])) == (12, 3)
    with pytest.raises(TaskError, match=r"label: the column 'lists' holds .*; accepted is one label a row"):
        task(tmp_path, dataset="some.parquet", label="lists")


@pytest.mark.parametrize(
    ("freeze", "moved"), [("none", True), ("embeddings", True), ("all-but-head", False)], ids=lambda one: str(one)
)
def test_what_is_frozen_stays_as_it_was_and_the_rest_moves(made: Path, freeze: str, moved: bool) -> None:
    found = task(made, freeze=freeze)
    seen = Seen(found)
    before = found.model().state_dict()
    run(seen, trial(horizon=4))
    after = seen.models[-1].state_dict()
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert same["bert.embeddings.word_embeddings.weight"] is (freeze != "none")
    assert same["bert.encoder.layer.0.output.dense.weight"] is not moved
    assert not same["classifier.weight"]


def test_each_layer_below_the_head_is_slower(made: Path) -> None:
    found = task(made, layer_decay=0.5)
    model = found.model()
    rates = {id(one): group["rate"] for group in found.groups(model) for one in group["params"]}
    by_name = {name: rates[id(one)] for name, one in model.named_parameters()}
    assert by_name["classifier.weight"] == by_name["bert.pooler.dense.weight"] == 1
    assert by_name["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert by_name["bert.encoder.layer.0.attention.self.query.weight"] == 0.25
    assert by_name["bert.embeddings.LayerNorm.bias"] == 0.125


def test_two_workers_know_that_they_train_the_same(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "elsewhere")
    one, copy, other = task(made), task(tmp_path / "elsewhere"), task(made, text="text", max_length=5)
    before = task_digest(one)
    one.model()
    assert before == task_digest(one) == task_digest(copy) != task_digest(other)
    assert not before.startswith("unreadable")


def test_a_folder_that_is_written_over_is_read_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert", tmp_path / "bert")
    shutil.copy(made / "films.csv", tmp_path)
    first = task(tmp_path)
    assert task(tmp_path) is first
    os.utime(tmp_path / "bert" / "model.safetensors", ns=(1, 2**62))
    assert task(tmp_path) is not first


def hub_cache(tmp_path: Path, source: Path) -> None:
    """The cache as a download leaves it."""
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(source, repository / "snapshots" / ("0" * 40))


def test_a_model_in_the_cache_is_found_by_its_name(made: Path, tmp_path: Path) -> None:
    hub_cache(tmp_path, made / "bert")
    cached, local = (task(made, model=name).model().state_dict() for name in ("some/model", "bert"))
    assert torch.equal(cached["bert.pooler.dense.weight"], local["bert.pooler.dense.weight"])


def test_a_dataset_in_the_cache_is_found_by_its_name_and_subset(made: Path, tmp_path: Path) -> None:
    cache = tmp_path / "datasets"
    datasets.load_dataset("json", data_files=str(made / "films.jsonl"), cache_dir=str(cache))
    (written,) = (cache / "json").iterdir()
    (cache / "some___films").mkdir()
    written.rename(cache / "some___films" / "english")
    for info in (cache / "some___films").rglob("dataset_info.json"):
        known = json.loads(info.read_text()) | {"dataset_name": "films", "config_name": "english"}
        info.write_text(json.dumps(known))
    for arrow in (cache / "some___films").rglob("*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("json", "films")))
    assert len(task(made, dataset="some/films", subset="english").train["labels"]) == 108
    with pytest.raises(TaskError, match=r"no 'some/films' below .* \(.*Available configs.*'english'.*\), and"):
        task(made, dataset="some/films", subset="french")


OFFLINE = r"nor in the cache of Hugging Face \(.*\), and the hub cannot be reached \(HF_HUB_OFFLINE is set\)\. Accepted"
WRONG = {
    "a missing model": ({"model": "no/model"}, f"^model: there is no 'no/model' below LRTUNE_DATA_DIR, {OFFLINE}"),
    "a missing dataset": ({"dataset": "imdb"}, f"^dataset: there is no 'imdb' below LRTUNE_DATA_DIR, {OFFLINE}"),
    "no such name": ({"model": "a/b/c"}, "'a/b/c' .* it is no name that the hub could have"),
    "no model": ({"model": "films"}, "model: 'films' has no config.json"),
    "a file as a model": ({"model": "films.csv"}, "model: 'films.csv' has no config.json"),
    "no dataset": ({"dataset": "bert/model.safetensors"}, "has the suffix '.safetensors'; accepted is one of .csv, "),
    "a folder of other things": ({"dataset": "gpt"}, "dataset: 'gpt' could not be read as"),
    "a subset of a file": ({"subset": "x"}, "subset: found 'x'; 'films.csv' is a file"),
    "a wrong text": ({"text": "review"}, "text: found 'review'; the dataset has the columns text, label"),
    "a wrong label": ({"label": "stars"}, "label: found 'stars'; the dataset has the columns text, label"),
    "numbers as text": ({"dataset": "films", "text": "label"}, "text: the column 'label' holds .*column of text"),
    "too many classes": ({"dataset": "many.csv"}, "'label' has 1200 classes; 2 to 1000 can be learned"),
    "a wrong split": ({"dataset": "films", "validation": "dev"}, "found 'dev'; 'films' has the splits train, test"),
    "no split to train on": ({"validation": "train"}, "needed is one called train"),
    "too short a text": ({**LANGUAGE, "dataset": "short.txt"}, "needed is a block of 16 tokens to train on and one"),
    "nothing left to train": ({**LANGUAGE, "freeze": "all-but-head"}, "freeze: found 'all-but-head', which leaves"),
    "a path that climbs": ({"model": "../bert"}, "accepted is a name on the Hugging Face hub, or a path below"),
    "an absolute path": ({"dataset": "/etc"}, "accepted is a name on the Hugging Face hub, or a path below"),
    "an address": ({"dataset": "hf://datasets/x"}, "accepted is a name on the Hugging Face hub, or a path below"),
    "a link that leads out": ({"model": "out"}, "model: 'out' leads out of LRTUNE_DATA_DIR"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_had_is_said_in_words(made: Path, name: str) -> None:
    if not (made / "out").is_symlink():
        (made / "out").symlink_to("/etc")
        (made / "short.txt").write_text("a good film")
        (made / "many.csv").write_text("text,label\n" + "".join(f"good,x{number}\n" for number in range(1200)))
    params, words = WRONG[name]
    with pytest.raises(TaskError, match=words):
        task(made, **params).model()


def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "bert", tmp_path / "bert")
    shutil.copy(made / "films.csv", tmp_path)
    return tmp_path / "bert"


def test_a_pickle_is_never_read(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(TaskError, match=r"has pytorch_model.bin, but no safetensors; other .* may run code"):
        task(tmp_path)


def test_a_models_own_python_is_never_run(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(TaskError, match="model: 'bert' could not be read as"):
        task(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_broken_or_of_another_model_are_said_to_be(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    shutil.copy(made / "gpt" / "model.safetensors", folder)
    with pytest.raises(TaskError, match=r"weights of 'bert' are not those that its config.json describes"):
        task(tmp_path)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(TaskError, match="model: 'bert' could not be read as a model for classification"):
        task(tmp_path)


def test_a_hub_that_cannot_be_reached_is_said_to_be_out_of_reach(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    for field in ("model", "dataset"):
        with pytest.raises(TaskError, match=rf"^{field}: there is no 'some/thing' .* be reached \(.*refused"):
            task(made, **{field: "some/thing"})


@pytest.mark.parametrize("params", [{}, LANGUAGE], ids=["classification", "causal-lm"])
def test_a_trial_goes_on_from_where_another_was_bit_for_bit(
    made: Path, tmp_path: Path, params: dict[str, object]
) -> None:
    found, asked = task(made, **params), trial(horizon=30, schedule="constant")
    lab = Lab(tmp_path / "states", spec=TaskSpec(name="huggingface"))
    alone = lab.train(found, asked, shares=False)
    lab.train(found, asked.model_copy(update={"until": 15}))
    shared = lab.train(found, asked)
    assert lab.starts[-1].step > 0
    assert shared[:1] == alone[:1]
    assert all(torch.equal(a, b) for a, b in zip(shared[2], alone[2], strict=True))


def test_a_worker_without_the_packages_leaves_the_task_out_and_the_door_says_so(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"task": {"name": "huggingface", "params": {"model": "bert", "dataset": "imdb"}}}
    assert "huggingface" in worker.tasks.offered()
    monkeypatch.setattr(worker.tasks, "find_spec", lambda name: None)
    without = worker.tasks.offered()
    assert without == ["digits", "tabular", "images", "text"]
    database = Database(sqlite_url)
    with served(sqlite_url) as http:
        assert http.post("/v1/jobs", json=job).status_code == 201, "with no worker yet it waits"
        for name, tasks in (("w1", without), ("w2", [*without, "huggingface"])):
            with database.write() as tx:
                workers.sign_in(tx, name, host="h", pid=1, device="cpu", tasks=tasks)
            answer = http.post("/v1/jobs", json=job)
            if name == "w1":
                assert answer.json()["errors"] == [
                    {
                        "pointer": "/task/name",
                        "detail": "found 'huggingface', for which no worker has the packages; "
                        "pip install 'lrtune[worker,huggingface]' where a worker runs, and start it again",
                    }
                ]
        listed = {one["name"]: one for one in http.get("/v1/tasks").json()["items"]}
    database.dispose()
    assert answer.status_code == 201, answer.text
    assert listed["huggingface"]["workers"] == 1
    assert "pip install 'lrtune[worker,huggingface]'" in listed["huggingface"]["summary"]


@pytest.mark.parametrize(
    ("params", "metric", "pointer"),
    [
        ({"model": "/etc/passwd"}, None, "/task/params/model"),
        ({"dataset": "../films.csv"}, None, "/task/params/dataset"),
        ({"dataset": "flims.csv"}, None, "/task/params/dataset"),
        ({"kind": "causal-lm"}, {"name": "val_accuracy"}, "/metric/name"),
        ({"validation": 1.5}, None, "/task/params/validation"),
    ],
)
def test_the_door_refuses_what_it_can_see_is_wrong(
    sqlite_url: str, tmp_path: Path, params: dict[str, object], metric: object, pointer: str
) -> None:
    given = {"model": "some/model", "dataset": "some/films", **params}
    with served(sqlite_url, data_dir=tmp_path) as http:
        answer = http.post("/v1/jobs", json={"task": {"name": "huggingface", "params": given}, "metric": metric})
    assert answer.status_code == 422
    assert {one["pointer"].removesuffix("/0").removesuffix("/1") for one in answer.json()["errors"]} == {pointer}
