"""A training so small that a test may run it whole."""

from jaxlstm import config, runs, training


def experiment(**changes) -> config.Experiment:
    given = {
        "name": "small",
        "question": "?",
        "expected": "!",
        "seeds": 2,
        "task": config.Adding(length=6),
        "model": config.LSTM(hidden_size=5),
        "optimizer": config.Adam(learning_rate=1e-2, clip_norm=1.0),
        "train": train(),
    }
    return config.Experiment(**(given | changes))


def train(**changes) -> config.Train:
    given = {"steps": 24, "batch_size": 4, "steps_per_dispatch": 10, "log_every": 8}
    given |= {"evaluate_every": 12, "checkpoint_every": 7}
    return config.Train(**(given | changes))


def go(folder, **changes) -> runs.Manifest:
    return training.run(training.prepare(experiment(**changes)), folder, quiet=True)
