import lrtune
import torch
from lrtune.adapters.transformers import TrialCallback
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed


class Counting(Dataset):
    """Sequences that count upwards from somewhere, modulo 32: a language that is quickly learnt."""

    def __init__(self, count, first):
        self.starts = range(first, first + count)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, place):
        tokens = (torch.arange(16) + 7 * self.starts[place]) % 32
        return {"input_ids": tokens, "labels": tokens}


def main():
    trial = lrtune.trial()
    set_seed(trial.seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    trainer = Trainer(
        model=LlamaForCausalLM(config),
        args=TrainingArguments(
            output_dir="runs",
            max_steps=40,
            per_device_train_batch_size=8,
            eval_strategy="steps",
            eval_steps=10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=Counting(320, first=0),
        eval_dataset=Counting(32, first=1000),
        callbacks=[TrialCallback(trial)],
    )
    trainer.train(resume_from_checkpoint=trial.checkpoint_path)
    print(trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main()
