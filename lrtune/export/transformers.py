"""Hugging Face Transformers: TrainingArguments with the Trainer's own scheduler where it gives the same rates.

Its warm-ups start at zero, a step that the runs did not spend, so a curve with a warm-up is a scheduler of torch's.
"""

from typing import Any

from lrtune.export import formulas, pytorch
from lrtune.export.found import Exported, Found, script
from lrtune.schedules import (
    Constant,
    Cosine,
    InverseSqrt,
    Linear,
    Plateau,
    Polynomial,
    Restarts,
    Schedule,
    Wsd,
)
from lrtune.wire.configuration import Configuration

_CLIP = '''\
class ClipValue(transformers.TrainerCallback):
    """Clips each gradient, which TrainingArguments has no name for."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        torch.nn.utils.clip_grad_value_(model.parameters(), {value!r})'''


def write(found: Found) -> Exported:
    """A file to paste from: arguments, optimizer, and a scheduler where the arguments cannot name one."""
    named, lines = _own(found), pytorch.scheduling(found)
    schedule = formulas.constants(found) if named else lines.schedule
    scheduler = "None" if named else "scheduler"
    make = "" if named else f"\nscheduler = {lines.scheduler}"
    clip = found.configuration.clip_value
    callbacks = "" if clip is None else ", callbacks=[ClipValue()]"
    trainer = f"transformers.Trainer(model=model, args=arguments, optimizers=(optimizer, {scheduler}){callbacks})"
    return script(
        found,
        "learning_rate.py",
        formulas.imports(schedule, torch="import torch", transformers="import transformers"),
        pytorch.MODEL,
        schedule,
        _arguments(found.configuration, named),
        "# Given whole, because its own spares biases and norms the weight decay, as the service's runs do not.\n"
        "# Where your script's Trainer made its own, the script with LRTUNE_JOB is the run that was judged.\n"
        + pytorch.optimizer_lines(found.configuration)
        + make,
        "" if clip is None else _CLIP.format(value=clip),
        f"# With your train_dataset:\ntrainer = {trainer}",
    )


def _arguments(configuration: Configuration, named: tuple[str, dict[str, Any]] | None) -> str:
    chosen = configuration.optimizer
    values: dict[str, Any] = {"learning_rate": "PEAK", "max_steps": "STEPS", "warmup_steps": 0}
    if named:
        kind, knobs = named
        values |= {"lr_scheduler_type": repr(kind)} | ({"lr_scheduler_kwargs": _dict(knobs)} if knobs else {})
    if type(chosen).__name__ == "Adamw":
        names = {"beta1": "adam_beta1", "beta2": "adam_beta2", "eps": "adam_epsilon", "weight_decay": "weight_decay"}
        values |= {"optim": '"adamw_torch"'} | {theirs: getattr(chosen, ours) for ours, theirs in names.items()}
    values["max_grad_norm"] = configuration.clip_norm or 0.0
    lines = "".join(f"    {name}={value},\n" for name, value in values.items())
    return f'arguments = transformers.TrainingArguments(\n    output_dir="out",\n{lines})'


def _dict(knobs: dict[str, Any]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in knobs.items()) + "}"


def _own(found: Found) -> tuple[str, dict[str, Any]] | None:
    """The name of the Trainer's own scheduler and its keywords; None where none gives these rates."""
    return _named(found.family, found.span) if found.free and not found.rise else None


def _named(family: Schedule, span: int) -> tuple[str, dict[str, Any]] | None:
    match family:
        case Constant() | Plateau():
            return "constant", {}
        case Linear(final=0.0):
            return "linear", {}
        case Linear(final=final) if final < 1.0:
            return "polynomial", {"power": 1.0, "lr_end": f"{final!r} * PEAK"}
        case Polynomial(power=power, final=final) if final < 1.0:
            return "polynomial", {"power": power, "lr_end": f"{final!r} * PEAK"}
        case Cosine(final=0.0, arc=arc):
            return "cosine", {"num_cycles": arc / 2}
        case Cosine(final=final, arc=arc):
            return "cosine_with_min_lr", {"num_cycles": arc / 2, "min_lr_rate": final}
        case Restarts(cycles=n, mult=1.0, gamma=1.0, shape="cosine", final=0.0) if _exact_cycles(n, span):
            return "cosine_with_restarts", {"num_cycles": n}
        case InverseSqrt(decay=decay) if decay > 0.0:
            return "inverse_sqrt", {"timescale": span / decay}
        case Wsd(decay=decay, shape=shape, final=final, power=1.0) if shape != "exponential":
            kind = {"sqrt": "1-sqrt"}.get(shape, shape)
            steps = round(decay * span)
            return "warmup_stable_decay", {"num_decay_steps": steps, "decay_type": f'"{kind}"', "min_lr_ratio": final}
    return None


def _exact_cycles(cycles: int, span: int) -> bool:
    """Whether a cycle begins where rounding leaves it: the Trainer's formula has no hair's breadth."""
    begins = (round(cycle * span / cycles) for cycle in range(cycles))
    return all((cycles * (step / span)) % 1.0 < 1.0 - 1e-9 for step in begins)
