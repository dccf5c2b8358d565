"""timm: the arguments of its `create_scheduler_v2` where its schedulers give the same rates, else torch's.

Its warm-up reaches the peak one step later than ours and its decays run on meanwhile, so only curves that do not move
there (constant, steps, warmup-stable-decay) can have both. Everything counts in updates.
"""

from typing import Any

from lrtune.export import formulas, pytorch
from lrtune.export.found import Exported, Found, script
from lrtune.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    Multistep,
    Plateau,
    Polynomial,
    Restarts,
    Schedule,
    Step,
    Wsd,
)
from lrtune.wire.configuration import Configuration

_OWN = """\
scheduler, _ = create_scheduler_v2(
    optimizer,
    step_on_epochs=False,  # all of these count updates
    updates_per_epoch=1,
{knobs})"""


def write(found: Found) -> Exported:
    """A file to paste from: the optimizer, and timm's scheduler or torch's."""
    own, lines = _own(found), pytorch.scheduling(found)
    knobs = "".join(f"    {name}={value},\n" for name, value in (own or {}).items())
    schedule = lines.schedule if own is None else formulas.constants(found)
    timm = "" if own is None else "from timm.scheduler import create_scheduler_v2"
    return script(
        found,
        "learning_rate.py",
        formulas.imports(schedule, torch="import torch", timm=timm),
        pytorch.MODEL,
        schedule,
        _named_arguments(found.configuration),
        pytorch.optimizer_lines(found.configuration)
        + "\n"
        + (f"scheduler = {lines.scheduler}" if own is None else _OWN.format(knobs=knobs)),
        _loop(found.configuration, "scheduler.step()" if own is None else "scheduler.step_update(update)"),
    )


def _named_arguments(configuration: Configuration) -> str:
    """The optimizer in the words of timm's train.py, which would spare biases and norms the weight decay."""
    knobs = configuration.optimizer.as_dict()
    if configuration.optimizer.packaged:
        return f"# timm's train.py has no {knobs['name']}: take the optimizer from here."
    names = {"momentum": "momentum", "eps": "opt-eps", "weight_decay": "weight-decay"}
    line = [f"--opt {knobs['name']}", f"--lr {configuration.learning_rate!r}"]
    line += [f"--{theirs} {knobs[ours]!r}" for ours, theirs in names.items() if ours in knobs]
    if "beta1" in knobs:
        line.append(f"--opt-betas {knobs['beta1']!r} {knobs['beta2']!r}")
    clip = configuration.clip_norm or configuration.clip_value
    mode = "norm" if configuration.clip_norm else "value"
    line += [] if clip is None else [f"--clip-grad {clip!r} --clip-mode {mode}"]
    return f"# In the words of timm's train.py: {' '.join(line)}"


def _loop(configuration: Configuration, step: str) -> str:
    lines = [
        "for update, batch in enumerate(batches, start=1):  # STEPS of them",
        "    loss(model, batch).backward()",
        *(f"    {line}" for line in pytorch.clipping(configuration)),
        "    optimizer.step()",
        f"    {step}",
        "    optimizer.zero_grad()",
    ]
    return "\n".join(f"# {line}" for line in lines)


def _own(found: Found) -> dict[str, Any] | None:
    """The arguments of `create_scheduler_v2`; None where none of its schedulers gives these rates."""
    if not found.free:
        return None
    if (flat := _flat(found.family, found.rise, found.span)) is not None:
        rise = {"warmup_epochs": found.rise - 1, "warmup_lr": f"PEAK / {found.rise}"} if found.rise > 1 else {}
        return flat | (rise or {"warmup_epochs": 0})
    return None if found.rise else _moving(found.family, found.span)


def _flat(family: Schedule, rise: int, span: int) -> dict[str, Any] | None:
    """Schedulers that stay at the peak for a step at least, so that a warm-up may come before."""
    match family:
        case Constant() | Plateau():
            return {"sched": '"constant"', "num_epochs": "STEPS"}
        case Step(gamma=gamma, every=every):
            every = round(every * span)
            return _milestones(gamma, [rise + step for step in range(every, span, every)])
        case Multistep(gamma=gamma, milestones=milestones) if round(milestones[0] * span) > 0:
            return _milestones(gamma, [rise + round(milestone * span) for milestone in milestones])
        case Wsd(decay=decay, shape=shape, final=final, power=1.0) if shape != "exponential":
            steps, kind = round(decay * span), {"sqrt": "1-sqrt"}.get(shape, shape)
            knobs = {"decay_epochs": steps, "decay_fn": f'"{kind}"', "min_lr": f"{final!r} * PEAK"}
            return {"sched": '"wsd"', "num_epochs": "STEPS", **knobs}
    return None


def _milestones(gamma: float, steps: list[int]) -> dict[str, Any]:
    """A milestone of timm's comes one update early, so each is one later here."""
    later = [step + 1 for step in steps]
    return {"sched": '"multistep"', "num_epochs": "STEPS", "decay_rate": gamma, "decay_milestones": later}


def _moving(family: Schedule, span: int) -> dict[str, Any] | None:
    """Schedulers that fall from the first step on."""
    alone: dict[str, Any] = {"num_epochs": "STEPS", "warmup_epochs": 0}
    match family:
        case Cosine(final=final, arc=1.0):
            return {"sched": '"cosine"', "min_lr": f"{final!r} * PEAK", **alone}
        case Linear(final=final):
            return {"sched": '"poly"', "decay_rate": 1.0, "min_lr": f"{final!r} * PEAK", **alone}
        case Polynomial(power=power, final=final):
            return {"sched": '"poly"', "decay_rate": power, "min_lr": f"{final!r} * PEAK", **alone}
        case Exponential(final=final, every=0.0):
            return {"sched": '"step"', "decay_epochs": 1, "decay_rate": f"{final!r} ** (1 / STEPS)", **alone}
        case Restarts(cycles=n, mult=1.0, gamma=gamma, shape="cosine", final=final) if _cycles(n, gamma, final, span):
            knobs = {"min_lr": f"{final!r} * PEAK", "cycle_limit": n, "cycle_decay": gamma}
            return {"sched": '"cosine"', **knobs, **alone, "num_epochs": span // n}
        case InverseSqrt(decay=decay) if decay > 0.0:  # its decay phase has to be there, and begins behind the end
            knobs = {"stable_timescale": span / decay, "decay_epochs": 1}
            return {"sched": '"rsqrt"', **knobs, **alone, "num_epochs": "STEPS + 1"}
    return None


def _cycles(cycles: int, gamma: float, final: float, span: int) -> bool:
    return span % cycles == 0 and gamma ** (cycles - 1) > final
