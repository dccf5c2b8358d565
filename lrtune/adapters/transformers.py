"""Hugging Face `Trainer`: `Trainer(..., callbacks=[TrialCallback(trial)])`.

The trainer keeps its own optimizer and scheduler; before each update the trial's rates take the place of what the
scheduler said, in the trainer's logs as well. The metric of the job is one that `evaluate` logs, such as `eval_loss`.

A trial taken with `job.trials(checkpoints=...)` is kept in the trainer's own checkpoint and goes on with
`trainer.train(resume_from_checkpoint=trial.checkpoint_path)`; `max_steps` stays `trial.steps`. Data that draws at
random as it is loaded is not what it would have been: the trainer loads ahead. Several processes keep it together.

What a stage ends with is written in a folder of that trial's own: trials that are trained side by side, with one
`output_dir`, would write over each other's, or delete it, before it is kept.
"""

import logging
import numbers
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrtune.adapters import matching
from lrtune.adapters.checkpoints import generators, set_generators
from lrtune.adapters.distributed import require_one_trial
from lrtune.adapters.folder import kept_by
from lrtune.adapters.pytorch import Rates, plain, require_optimizer
from lrtune.adapters.trial import TrialLike, ends_stage, paused, require_length, require_start

log = logging.getLogger("lrtune.loop")


class TrialCallback(TrainerCallback):
    """Sets a trial's rates, reports every evaluation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial
        self._rates: Rates | None = None
        self._before: dict[str, Any] | None = None  # the random generators before an evaluation that only we asked for
        self._ours = False  # whether the next checkpoint is for us alone
        self._held: dict[str, float] = {}  # measured on one of several sets, while the job's metric is not known yet
        self._heard = False  # whether the job's metric was reported
        self._sets = self._came = 0  # how many sets an evaluation has, once one is known to be over; of this one
        self._training = False
        self._given: str | None = None  # the script's folder for checkpoints, while ours takes its place
        trial.keeps_itself = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the optimizer's rates. Raises ValueError for another run or optimizer than the trial's."""
        require_length(state.max_steps, self.trial, f"TrainingArguments(max_steps={self.trial.steps})")
        optimizer = plain(kwargs["optimizer"])
        require_optimizer([optimizer], self.trial)
        require_one_trial(self.trial)
        self._require_stage(args, state)
        self._warn_of_limit(args)
        remedy = "write TrainingArguments(max_grad_norm=trial.configuration.clip_norm)"
        matching.require_clipping(self.trial.configuration, norm=args.max_grad_norm, remedy=remedy)
        self._training = True
        self._rates = Rates(self.trial, optimizer)
        self._set(state, kwargs["lr_scheduler"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the rates of this update, whatever it is of a run that was resumed."""
        self._set(state, kwargs["lr_scheduler"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the rates of the next update, for whoever looks; measure where a stage ends."""
        self._set(state, kwargs["lr_scheduler"])
        self._before = None
        by_epoch = args.eval_strategy == "epoch" and state.epoch % 1 == 0 and args.eval_delay <= state.epoch
        if ends_stage(self.trial, state.global_step) and not (control.should_evaluate or by_epoch):
            control.should_evaluate, self._before = True, generators()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was measured, if anything was trained by then; as for the trainer, `eval_` need not be said.

        Scripts evaluate once more when training has ended: that is a report only where the trial has not.
        """
        if self._before is not None:
            set_generators(self._before)
        if self.trial.over or paused(self.trial):  # such as another set of the same evaluation
            control.should_training_stop = True
            return
        measured = {name: float(value) for name, value in kwargs["metrics"].items() if isinstance(value, numbers.Real)}
        if (full := f"eval_{self.trial.metric}") in measured:
            measured.setdefault(self.trial.metric, measured[full])
        self._held |= measured
        self._heard = self._heard or self.trial.metric in measured
        self._came += 1
        complete = self._came >= self._sets if self._sets else self.trial.metric in self._held
        if complete or "eval_runtime" in measured:  # which only one set alone has
            self._report(state, control)
        if paused(self.trial):
            self._ours, control.should_save = not control.should_save, True
            self._apart(args)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report what no set had the job's metric of: a misspelt one is found at once.

        In the first evaluation nobody knows how many sets there are: what comes after the metric is too late for its
        report, and is none of the next.
        """
        if self._heard and not self._sets:
            self._held = {}
        self._report(state, control)
        self._sets, self._came = self._came or self._sets, 0

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what a trainer that saves the best alone did not; a stage that has ended is not measured once more."""
        if paused(self.trial):
            self._ours = True
            self._apart(args)
        if paused(self.trial) or self.trial.over:
            control.should_evaluate, control.should_save = False, not self.trial.over

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Know that what is evaluated from here on is not of the training."""
        self._training = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the trainer's checkpoint where the trial is to pause."""
        if not paused(self.trial):
            return
        apart, args.output_dir, self._given = Path(args.output_dir or "."), self._given, None
        made = apart / f"checkpoint-{state.global_step}"
        of_host = args.local_process_index == 0  # what all processes of a host have written lies in one directory
        self.trial.keep(state.global_step, lambda to: of_host and shutil.copytree(made, to, dirs_exist_ok=True))
        asked = Path(args.output_dir or ".") / made.name
        if of_host:
            if not self._ours:
                shutil.rmtree(asked, ignore_errors=True)
                shutil.move(made, asked)
            shutil.rmtree(apart, ignore_errors=True)
        if state.best_model_checkpoint == str(made):  # which the trainer looks for as it ends
            state.best_model_checkpoint = None if self._ours else str(asked)

    def _apart(self, args: TrainingArguments) -> None:
        """Let the next checkpoint be written where no other trial's is."""
        if self._given is None:
            self._given = args.output_dir or "."
            job, number = self.trial.key
            args.output_dir = str(Path(self._given) / f"{job}-trial-{number}")

    def _report(self, state: TrainerState, control: TrainerControl) -> None:
        """Report what is held, if anything was trained by then."""
        measured, self._held = self._held, {}
        if measured and state.global_step and self.trial.report(state.global_step, **measured):
            control.should_training_stop = True

    def _require_stage(self, args: TrainingArguments, state: TrainerState) -> None:
        """Raise ValueError for a run that cannot be kept, or does not go on from what was."""
        resume = "write trainer.train(resume_from_checkpoint=trial.checkpoint_path)"
        require_start(state.global_step, self.trial, resume)
        if not self.trial.in_stages:
            return
        if args.save_only_model or args.ignore_data_skip:
            raise ValueError("found save_only_model or ignore_data_skip; accepted is neither, for a trial in stages")
        path = self.trial.checkpoint_path
        if path is not None and (had := kept_by(Path(path))) != args.world_size:
            raise ValueError(f"found a checkpoint of {had} processes; this run has {args.world_size}: start as many")

    def _warn_of_limit(self, args: TrainingArguments) -> None:
        """Trials that train side by side delete each other's checkpoints, where one folder has so many at most."""
        (job, number), folder = self.trial.key, args.output_dir or "."
        saves = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"
        if job and saves and args.save_total_limit and not re.search(rf"(?<!\d){number}(?!\d)", Path(folder).name):
            found = f"save_total_limit={args.save_total_limit} in {folder}, whatever the trial"
            own = f'output_dir=f"{folder}/{{trial.number}}"'
            log.warning(
                "found %s: trials that train side by side delete each other's checkpoints; give each trial a folder "
                "of its own: %s",
                found,
                own,
            )

    def _set(self, state: TrainerState, scheduler: Any) -> None:
        """Set the rates, and let the trainer's scheduler say the same."""
        if self._rates is not None:
            rates = self._rates.set(state.global_step)
            getattr(scheduler, "scheduler", scheduler)._last_lr = rates  # Accelerate's is around it
