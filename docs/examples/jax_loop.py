import jax
import numpy as np
import optax
from lrtune.client import Client

POINTS = np.random.default_rng(1).normal(size=(400, 2))
JOB = {
    "name": "jax",
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
    "horizon": {"steps": 200},
    "budget": {"full_runs": 3},
    "confirm": {"top": 1, "seeds": 1},
}
optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.0, weight_decay=0.01)


def loss(weights, points):
    hidden = jax.numpy.tanh(points @ weights["in"] + weights["bias"])
    return ((hidden @ weights["out"] - (points**2).sum(axis=1)) ** 2).mean()


@jax.jit
def update(weights, state, points, rate):
    state.hyperparams["learning_rate"] = rate
    steps, state = optimizer.update(jax.grad(loss)(weights, points), state, weights)
    return optax.apply_updates(weights, steps), state


class Training:
    """What a checkpoint holds, as a list of arrays: Optax's own classes are nothing that is read back as data."""

    def __init__(self, seed):
        draw = np.random.default_rng(seed)
        weights = {"in": draw.normal(size=(2, 32)), "bias": draw.normal(size=32), "out": 0.1 * draw.normal(size=32)}
        self.weights = jax.tree.map(jax.numpy.asarray, weights)
        self.state = optimizer.init(self.weights)

    def state_dict(self):
        return {"arrays": jax.tree.leaves((self.weights, self.state))}

    def load_state_dict(self, kept):
        self.weights, self.state = jax.tree.unflatten(jax.tree.structure((self.weights, self.state)), kept["arrays"])


def main(trial):
    training, batches = Training(trial.seed), np.random.default_rng(trial.seed)
    start = trial.restore(training=training, batches=batches)
    for step in range(start, trial.until):
        points = batches.choice(POINTS[:300], 32)
        training.weights, training.state = update(training.weights, training.state, points, trial.learning_rate(step))
        if trial.due(step + 1) and trial.report(step + 1, val_loss=loss(training.weights, POINTS[300:])):
            return


if __name__ == "__main__":
    print(Client().optimize(JOB, main, checkpoints="checkpoints"))
