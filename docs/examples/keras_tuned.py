import keras
import lrtune
import numpy as np
from lrtune.adapters.keras import TrialCallback


def spirals(count, seed):
    """Points on three arms of a spiral; the class is the arm."""
    generator = np.random.default_rng(seed)
    arm, along = generator.integers(3, size=count), generator.random(count)
    angle = 4 * along + arm * 2 * np.pi / 3 + 0.1 * generator.normal(size=count)
    return np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1).astype("float32"), arm


def main():
    trial = lrtune.trial()
    keras.utils.set_random_seed(trial.seed)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        *spirals(128, seed=1),
        batch_size=64,
        epochs=20,
        validation_data=spirals(256, seed=2),
        verbose=0,
        callbacks=[TrialCallback(trial)],
    )
    print(model.evaluate(*spirals(256, seed=2), verbose=0))


if __name__ == "__main__":
    main()
