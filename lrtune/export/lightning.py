"""PyTorch Lightning: a module's `configure_optimizers`, its scheduler stepped every step, and the Trainer around it."""

import textwrap

from lrtune.export import formulas, pytorch
from lrtune.export.found import Exported, Found, script
from lrtune.wire.configuration import Configuration

_MODULE = '''\
class Tuned(lightning.LightningModule):
    """Your own module in place of this one; the methods below are what you take over."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(self.model(inputs), targets)

    def configure_optimizers(self):
        model = self.model
{optimizer}
        return {{"optimizer": optimizer, "lr_scheduler": {{"scheduler": scheduler, "interval": "step"}}}}
'''
_CLIP = '''
    def on_before_optimizer_step(self, optimizer):
        """Clips in the order of the runs: by norm, then by value, where the Trainer takes only one."""
{lines}
'''


def write(found: Found) -> Exported:
    """A file to paste from: a module with its optimizer and schedule, and the Trainer's arguments."""
    lines, configuration = pytorch.scheduling(found), found.configuration
    both = configuration.clip_norm is not None and configuration.clip_value is not None
    classes, made = _classes(pytorch.optimizer_lines(configuration))
    body = textwrap.indent(f"{made}\nscheduler = {lines.scheduler}", " " * 8)
    clip = _CLIP.format(lines=textwrap.indent("\n".join(pytorch.clipping(configuration, "self")), " " * 8))
    needed = formulas.imports(lines.schedule, torch="import torch", lightning="import lightning")
    module = _MODULE.format(optimizer=body) + (clip if both else "")
    trainer = f"trainer = lightning.Trainer(max_steps=STEPS{'' if both else _clipping(configuration)})"
    return script(found, "learning_rate.py", needed, pytorch.MODEL, lines.schedule, classes, module, trainer)


def _classes(optimizer: str) -> tuple[str, str]:
    """The classes that the optimizer needs, and the lines that make it."""
    if "class Together" not in optimizer:
        return "", optimizer
    parts, together = optimizer.split("\n\n\nclass Together", 1)
    classes, made = ("class Together" + together).rsplit("\n\n\n", 1)
    return classes, f"{parts}\n{made}"


def _clipping(configuration: Configuration) -> str:
    if configuration.clip_norm is not None:
        return f', gradient_clip_val={configuration.clip_norm!r}, gradient_clip_algorithm="norm"'
    if configuration.clip_value is not None:
        return f', gradient_clip_val={configuration.clip_value!r}, gradient_clip_algorithm="value"'
    return ""
