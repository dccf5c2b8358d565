"""DeepSpeed: its JSON configuration as a dict, with its own scheduler where that gives the same rates.

Its warm-ups give the first two steps the same rate and its decays follow them, so few curves are its own; the others
are a scheduler of torch's, handed to `deepspeed.initialize`.
"""

from typing import Any

from lrtune.export import formulas, pytorch
from lrtune.export.found import Exported, Found, script
from lrtune.schedules import Constant, Cyclic, LinearGrowth, OneCycle, Plateau, Schedule
from lrtune.wire.configuration import Configuration

_TRAINING = """\
engine, optimizer, _, scheduler = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config=CONFIG,{more}
)
# for batch in batches:  # STEPS of them
#     engine.backward(loss(engine, batch))
#     engine.step()  # clips, updates, and moves the schedule on"""


def write(found: Found) -> Exported:
    """A file to paste from: the configuration, and a scheduler where the configuration cannot name one."""
    own, configuration = _own(found), found.configuration
    lines = pytorch.scheduling(found)
    schedule = formulas.constants(found) if own is not None else lines.schedule
    scheduler = lines.scheduler.replace("\n", "\n    ")
    more = "" if own is not None else f"\n    lr_scheduler=lambda optimizer: {scheduler},"
    given = _given(configuration)
    optimizer = pytorch.optimizer_lines(configuration) if given else ""
    more = "\n    optimizer=optimizer," + more if given else more
    return script(
        found,
        "learning_rate.py",
        formulas.imports(schedule, deepspeed="import deepspeed", torch="import torch"),
        pytorch.MODEL,
        schedule,
        _clip_value(configuration) + _config(configuration, own or {}),
        optimizer,
        _TRAINING.format(more=more),
    )


def _clip_value(configuration: Configuration) -> str:
    """DeepSpeed has no name for clipping by value; a hook clips each gradient as it comes, before the norm."""
    if configuration.clip_value is None:
        return ""
    value = configuration.clip_value
    note = (
        "# DeepSpeed does not clip by value. This does so as each gradient comes, and so before the norm is clipped:\n"
    )
    hook = f"    one.register_hook(lambda gradient: gradient.clamp(-{value!r}, {value!r}))\n"
    return f"{note}for one in model.parameters():\n{hook}"


def _config(configuration: Configuration, scheduler: dict[str, Any]) -> str:
    lines = ['    "train_micro_batch_size_per_gpu": 32,  # your own batch size']
    if not _given(configuration):
        lines.append(f'    "optimizer": {_optimizer(configuration)},')
    if scheduler:
        knobs = ", ".join(f'"{name}": {value}' for name, value in scheduler["params"].items())
        lines.append(f'    "scheduler": {{"type": "{scheduler["type"]}", "params": {{{knobs}}}}},')
    if configuration.clip_norm is not None:
        lines.append(f'    "gradient_clipping": {configuration.clip_norm!r},')
    return "CONFIG = {\n" + "\n".join(lines) + "\n}"


def _given(configuration: Configuration) -> bool:
    """Whether the optimizer is handed over, because no name of DeepSpeed's is it."""
    return configuration.optimizer.packaged is not None or type(configuration.optimizer).__name__ == "Muon"


def _optimizer(configuration: Configuration) -> str:
    """Torch's own, whose names DeepSpeed takes; its Adam would be AdamW unless asked not to be."""
    chosen = configuration.optimizer
    values = {name: value for name, value in chosen.as_dict().items() if name != "name"}
    if "beta1" in values:
        values = {"betas": [values.pop("beta1"), values.pop("beta2")]} | values
    if type(chosen).__name__ in ("Adam", "Adamw"):
        values |= {"torch_adam": True, "adam_w_mode": type(chosen).__name__ == "Adamw"}
    knobs = "".join(f', "{name}": {value!r}' for name, value in values.items())
    return f'{{"type": "{pytorch.torch_name(chosen)}", "params": {{"lr": PEAK{knobs}}}}}'


def _own(found: Found) -> dict[str, Any] | None:
    """The scheduler of the configuration, empty for a constant rate; None where none gives these rates."""
    return _named(found.family, found.span) if found.free and not found.rise else None


def _named(family: Schedule, span: int) -> dict[str, Any] | None:
    match family:
        case Constant() | Plateau():
            return {}
        case LinearGrowth(start=start) if start > 0.0:
            knobs = {"min_lr": f"{start!r} * PEAK", "step_size": "STEPS", "step_rate": (1.0 - start) / start}
            return {"type": "LRRangeTest", "params": {f"lr_range_test_{name}": value for name, value in knobs.items()}}
        case OneCycle(rise=rise, start=start, final=final, shape="linear") if start == final and rise > 0.0:
            return _triangle(start, rise * span, span)
        case Cyclic(base=base, cycles=1, mode="triangular"):
            return _triangle(base, span / 2, span)
    return None


def _triangle(base: float, first: float, span: int) -> dict[str, Any]:
    knobs = {
        "cycle_min_lr": f"{base!r} * PEAK",
        "cycle_max_lr": "PEAK",
        "cycle_first_step_size": first,
        "cycle_second_step_size": span - first,
        "cycle_momentum": False,
    }
    return {"type": "OneCycle", "params": knobs}
