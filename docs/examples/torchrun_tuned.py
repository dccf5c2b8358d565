import lrtune
import torch
from torch import distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

EPOCHS, BATCH = 20, 32


def sines(count, seed):
    x = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * 6
    return TensorDataset(x, torch.sin(x))


def main():
    distributed.init_process_group("gloo")
    trial = lrtune.trial()
    torch.manual_seed(trial.seed)
    sampler = DistributedSampler(data := sines(256, seed=1))
    training = DataLoader(data, batch_size=BATCH, sampler=sampler)
    x, y = sines(128, seed=2).tensors
    model = DistributedDataParallel(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = trial.scheduler(optimizer)
    start = trial.restore(model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in range(start // len(training), EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, targets in training:
            optimizer.zero_grad()
            mse_loss(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            loss = mse_loss(model.module(x), y).item()
        if distributed.get_rank() == 0:
            print(f"epoch {epoch + 1}: val_loss {loss:.4f}")
        if trial.report((epoch + 1) * len(training), val_loss=loss): break
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
