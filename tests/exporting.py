"""Runs exported snippets with their real frameworks, all in one process of their own: `python tests/exporting.py`.

Reads a JSON object from stdin: lists of {text, steps} by the function here that runs them. Prints it with the rates
that came out in place of each, or with the traceback where the function fails.
"""

import importlib.util
import json
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

if __name__ == "__main__":
    os.environ |= {"KERAS_BACKEND": "torch", "JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.simplefilter("ignore")


BUILT: set[str] = set()


def executed(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(text, "snippet", "exec"), names)
    return names


@contextmanager
def instead(**modules: types.ModuleType) -> Iterator[None]:
    """Modules in place of those of the same name; a double underscore is a dot."""
    named = {name.replace("__", "."): module for name, module in modules.items()}
    before = {name: sys.modules.get(name) for name in named}
    sys.modules.update(named)
    yield
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def stepped(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
    """The rate of every step of a loop with a scheduler of torch's, the same in every group."""
    found = []
    for _ in range(steps):
        rates = {group["lr"] for group in optimizer.param_groups}
        assert len(rates) == 1
        found.append(rates.pop())
        optimizer.step()
        scheduler.step()
    return found


def keras(text: str, steps: int) -> list[float]:
    import keras as lib

    names = executed(text)
    optimizer = names.get("optimizer") or lib.optimizers.SGD(learning_rate=names["schedule"])
    weights = lib.Variable([[1.0, 2.0], [3.0, 4.0]])
    optimizer.build([weights])
    found = []
    for step in range(steps):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    optimizer.apply([lib.ops.ones((2, 2))], [weights])  # the knobs are such as the optimizer takes
    return found


def optax(text: str, steps: int) -> list[float]:
    import jax
    import jax.numpy as jnp

    names = executed(text)
    if "optimizer" in names and (chain := text[text.index("optimizer = ") :]) not in BUILT:
        BUILT.add(chain)
        weights = {"one": jnp.ones((2, 2))}
        names["optimizer"].update(weights, names["optimizer"].init(weights), weights)  # it takes its knobs
    return [float(rate) for rate in jnp.broadcast_to(jax.vmap(names["schedule"])(jnp.arange(steps)), (steps,))]


def pytorch(text: str, steps: int) -> list[float]:
    names = executed(text)
    found = stepped(names["optimizer"], names["scheduler"], steps)
    if "rest" in names:
        assert stepped(names["rest"], names["rest_scheduler"], steps) == found
    return found


def transformers(text: str, steps: int) -> list[float]:
    trainer = executed(text)["trainer"]
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    assert trainer.args.max_steps == steps
    return stepped(trainer.optimizer, trainer.lr_scheduler, steps)


def lightning(text: str, steps: int) -> list[float]:
    names = executed(text)
    assert names["trainer"].max_steps == steps
    made = names["Tuned"](names["model"]).configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    return stepped(made["optimizer"], made["lr_scheduler"]["scheduler"], steps)


def trained_by_transformers(text: str, steps: int) -> list[float]:
    """What the Trainer itself logs as it trains."""
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer = executed(text.replace('output_dir="out"', f'output_dir="{folder}", logging_steps=1'))["trainer"]
        trainer.compute_loss = lambda model, inputs, **_: model(inputs["input"]).square().sum()
        trainer.train_dataset = [{"input": torch.ones(8)} for _ in range(8 * steps)]
        seen = []
        trainer.add_callback(_watching(trainer, seen))
        trainer.train()
    return seen


def _watching(trainer: Any, seen: list[float]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append(optimizer.param_groups[0]["lr"])

    return Watch()


def trained_by_lightning(text: str, steps: int) -> list[float]:
    """What the module's optimizer has at every batch that Lightning trains."""
    import torch

    quiet = 'max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"'
    names = executed(text.replace("max_steps=STEPS", quiet))
    seen = []

    class Watched(names["Tuned"]):
        def on_train_batch_start(self, batch, index):
            seen.append(self.optimizers().param_groups[0]["lr"])

    data = torch.utils.data.TensorDataset(torch.ones(2 * steps, 8), torch.zeros(2 * steps, dtype=torch.long))
    names["trainer"].fit(Watched(names["model"]), torch.utils.data.DataLoader(data, batch_size=2))
    return seen


def trained_by_keras(text: str, steps: int) -> list[float]:
    """What `fit` has at every batch; half way through, the model is saved and loaded again."""
    import tempfile

    import keras as lib
    import numpy as np

    seen = []

    def half(model: Any, count: int) -> None:
        watch = lib.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_, **__: seen.append(float(model.optimizer.learning_rate))
        )
        model.fit(np.ones((count, 3)), np.ones((count, 2)), batch_size=1, verbose=0, callbacks=[watch])

    model = lib.Sequential([lib.layers.Dense(2)])
    model.compile(optimizer=executed(text)["optimizer"], loss="mse")
    half(model, steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/half.keras")
        half(lib.models.load_model(f"{folder}/half.keras"), steps - steps // 2)
    return seen


def trained_by_optax(text: str, steps: int) -> list[float]:
    """By how much plain SGD moves a weight whose gradient is one."""
    import jax
    import jax.numpy as jnp
    import optax as lib

    optimizer = executed(text)["optimizer"]
    update = jax.jit(optimizer.update)
    weight = jnp.zeros(())
    state, found = optimizer.init(weight), []
    for _ in range(steps):
        moved, state = update(jnp.ones(()), state, weight)
        weight = lib.apply_updates(weight, moved)
        found.append(-float(moved))
    return found


def timm(text: str, steps: int) -> list[float]:
    """timm's own schedulers; the package around them needs torchvision, so only they are imported."""
    if "timm" not in sys.modules:
        package = types.ModuleType("timm")
        package.__path__ = importlib.util.find_spec("timm").submodule_search_locations
        sys.modules["timm"] = package
    names = executed(text)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    if "create_scheduler_v2" not in names:
        return stepped(optimizer, scheduler, steps)
    found = []
    for update in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step_update(update + 1)
    return found


def deepspeed(text: str, steps: int) -> list[float]:
    """DeepSpeed's own schedulers, made as its engine makes them; the engine itself wants to build its kernels."""
    from deepspeed.runtime import lr_schedules

    given = initialized(text)
    optimizer = deepspeed_optimizer(given)
    if (named := given["config"].get("scheduler")) is None:
        return (
            stepped(optimizer, given["lr_scheduler"](optimizer), steps)
            if "lr_scheduler" in given
            else [optimizer.param_groups[0]["lr"]] * steps
        )
    return stepped(optimizer, getattr(lr_schedules, named["type"])(optimizer, **named["params"]), steps)


def initialized(text: str) -> dict[str, Any]:
    """What a snippet hands to `deepspeed.initialize`."""
    given: dict[str, Any] = {}

    def initialize(**all_of_it: Any) -> tuple[Any, Any, Any, Any]:
        given.update(all_of_it)
        return None, None, None, None

    package = types.ModuleType("deepspeed")
    package.initialize = initialize
    with instead(deepspeed=package):
        executed(text)
    return given


def deepspeed_optimizer(given: dict[str, Any]) -> Any:
    """The optimizer of a configuration, as DeepSpeed's engine picks it: one of torch's by name."""
    import torch

    if "optimizer" in given:
        return given["optimizer"]
    asked = given["config"]["optimizer"]
    knobs = dict(asked["params"])
    if knobs.pop("torch_adam", False):
        assert asked["type"] == ("AdamW" if knobs.pop("adam_w_mode") else "Adam")
    return getattr(torch.optim, asked["type"])(given["model_parameters"], **knobs)


def outcome(name: str, cases: list[dict[str, Any]]) -> list[list[float]] | str:
    try:
        return [globals()[name](case["text"], case["steps"]) for case in cases]
    except Exception:
        return traceback.format_exc()


if __name__ == "__main__":
    print("\n" + json.dumps({name: outcome(name, cases) for name, cases in json.load(sys.stdin).items()}), flush=True)
    os._exit(0)  # to take all that was imported apart takes seconds
