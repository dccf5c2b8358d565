"""Ray Train: the driver holds the trial, its workers get the rates, and the first of them reports.

Not run by lrtune's tests: it needs a Ray cluster, which `ray.init()` starts on this machine.
"""

import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from lrtune.client import Client
from lrtune.wire.external import Batch, Sent

WORKERS = 2


def train(config):
    torch.manual_seed(config["seed"])
    x = torch.rand(640, 1) * 6
    y = torch.sin(x)
    model = prepare_model(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["rates"][0])
    first = ray.train.get_context().get_world_rank() == 0
    for step, rate in enumerate(config["rates"]):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        stop = [False]
        if first and step + 1 in config["report_at"]:
            sent = Sent(step=step + 1, metrics={"val_loss": loss.item()})
            verdict = Client(config["url"], config["key"]).tell(
                config["job"], config["number"], Batch(token=config["token"], reports=[sent])
            )
            stop = [verdict.decision == "stop"]
        torch.distributed.broadcast_object_list(stop)
        if stop[0]:
            return


def main(url, key):
    client = Client(url, key)
    job = client.submit("ray.json")
    for trial in job.trials():
        with trial:
            config = trial.to_send() | {"url": url, "key": key, "job": job.id}
            TorchTrainer(train, train_loop_config=config, scaling_config=ScalingConfig(WORKERS)).fit()
    print(client.best(job.id))


if __name__ == "__main__":
    import os

    main(os.environ.get("LRTUNE_URL"), os.environ.get("LRTUNE_API_KEY"))
