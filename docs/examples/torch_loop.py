import torch
from lrtune.client import Client
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH = 20, 32


def circles(count, seed):
    """Points in the plane; the class is the ring that they lie in."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(points, (points.norm(dim=1) * 2).long().clamp(max=4))


def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        losses = [functional.cross_entropy(model(points), rings) for points, rings in loader]
    model.train()
    return torch.stack(losses).mean().item()


def main(trial):
    torch.manual_seed(trial.seed)
    training = DataLoader(circles(320, seed=1), batch_size=BATCH, shuffle=True)
    validation = DataLoader(circles(400, seed=2), batch_size=400)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = trial.scheduler(optimizer)
    start = trial.restore(model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in range(start // len(training), EPOCHS):
        for points, rings in training:
            optimizer.zero_grad()
            functional.cross_entropy(model(points), rings).backward()
            optimizer.step()
            scheduler.step()
        loss = evaluate(model, validation)
        print(f"epoch {epoch + 1}: val_loss {loss:.4f}")
        if trial.report((epoch + 1) * len(training), val_loss=loss): return


if __name__ == "__main__":
    print(Client().optimize("torch.json", main, checkpoints="checkpoints"))
