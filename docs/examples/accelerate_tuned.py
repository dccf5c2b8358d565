"""A loop of Accelerate's, for one process or several: `accelerate launch accelerate_tuned.py`.

The first process takes the trials, and all train them; each calls `trial.report` at the same steps.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.adapters.distributed import together
from lrtune.client import Client

accelerator = Accelerator(cpu=True)
x = torch.rand(1280, 1, generator=torch.Generator().manual_seed(1)) * 6
y = torch.sin(x)

job = Client().submit("accelerate.json") if accelerator.is_main_process else None
for trial in together(job.trials() if job else ()):
    with trial:
        set_seed(trial.seed)
        model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        scheduler = trial.scheduler(optimizer)
        batches = DataLoader(TensorDataset(x[:1152], y[:1152]), batch_size=32, shuffle=True)
        model, optimizer, scheduler, batches = accelerator.prepare(model, optimizer, scheduler, batches)
        done = 0
        while done < trial.steps and not trial.over:
            for inputs, targets in batches:
                optimizer.zero_grad()
                accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
                optimizer.step()
                scheduler.step()
                done += 1
                if done % 10 == 0:
                    with torch.no_grad():
                        loss = nn.functional.mse_loss(model(x[1152:]), y[1152:])
                    if trial.report(done, val_loss=loss) or done == trial.steps:
                        break
if job:
    print(Client().best(job.id))
