import lrtune
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from lrtune.adapters.accelerate import restore
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STEPS, EVERY = 40, 2


def endless(loader):
    while True:
        yield from loader


def main():
    accelerator = Accelerator(cpu=True)
    trial = lrtune.trial()
    set_seed(trial.seed)
    x = torch.rand(1280, 1, generator=torch.Generator().manual_seed(1)) * 6
    y = torch.sin(x)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    training = DataLoader(TensorDataset(x[:1152], y[:1152]), batch_size=32, shuffle=True)
    model, optimizer, training = accelerator.prepare(model, optimizer, training)
    start = restore(trial, accelerator)
    scheduler = trial.scheduler(optimizer, step=start)
    batches = trial.batches(training)
    for step in range(start, STEPS):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
        optimizer.step()
        scheduler.step()
        if (step + 1) % EVERY == 0:
            with torch.no_grad():
                loss = nn.functional.mse_loss(model(x[1152:]), y[1152:]).item()
            print(f"step {step + 1}: val_loss {loss:.4f}")
            if trial.report(step + 1, val_loss=loss): break


if __name__ == "__main__":
    main()
