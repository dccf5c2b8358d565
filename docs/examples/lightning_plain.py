import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """A small network for a sine."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def sines(count, seed, **options):
    x = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * 6
    return DataLoader(TensorDataset(x, torch.sin(x)), batch_size=32, **options)


def main():
    pl.seed_everything(0)
    training, validation = sines(320, seed=1, shuffle=True), sines(128, seed=2)
    trainer = pl.Trainer(
        max_steps=40,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Regression(), training, validation)
    print(trainer.callback_metrics["val_loss"].item())


if __name__ == "__main__":
    main()
