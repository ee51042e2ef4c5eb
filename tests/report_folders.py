"""Run folders made up for the tests of the report: realistic, and a little nasty."""

import json
import math
from pathlib import Path

import numpy as np

LEAVES = [
    "embedding.table",
    *(
        f"lstm.{layer}.{leaf}"
        for layer in range(3)
        for leaf in ("kernel", "recurrent_kernel", "bias")
    ),
    "readout.kernel",
    "readout.bias",
]
HOSTILE = '<script>alert("&")</script>'


def manifest(folder: Path, **fields) -> None:
    """Write a manifest with these fields and likely ones."""
    likely = {
        "format_version": 1,
        "command": "jaxlstm run configs/shakespeare.toml --seeds 5",
        "started": "2026-01-31T12:34:56+00:00",
        "seconds": 187.4,
        "state": "finished",
        "seeds": [0, 1, 2, 3, 4],
        "device": "cpu",
        "machine": "Linux x86_64, 2 cores",
        "git_revision": "0123456789ab-dirty",
        "versions": {"python": "3.11.7", "jaxlstm": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2"},
        "parameters": 287_041,
        "summary": [],
    }
    (folder / "manifest.json").write_text(json.dumps(likely | fields))


def _finite(values) -> list:
    return [float(v) if math.isfinite(v) else None for v in np.asarray(values)]


def training(folder: Path, *, steps: int = 4000, seeds: int = 5, lost: bool = True) -> Path:
    """A character model, five seeds; one of them is not finite towards the end if `lost`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pace = rng.uniform(0.8, 1.2, seeds)
    lines = []
    for step in range(0, steps + 1, 20):
        fall = np.exp(-pace * step / 500)
        loss = 1.45 + 2.7 * fall + rng.normal(0, 0.04, seeds)
        if lost and step >= 0.8 * steps:
            loss[-1] = math.nan
        norms = {
            "gradient_norm": 0.35 + 3 * fall * rng.lognormal(0, 0.3, seeds),
            "parameter_norm": 40 + 25 * (1 - fall),
            "update_norm": 0.02 + 0.4 * fall,
        }
        leaves = {
            f"gradient_norm.{leaf}": (0.02 * (i + 1) + fall)
            * 2.0**-i
            * rng.lognormal(0, 0.2, seeds)
            for i, leaf in enumerate(LEAVES)
        }
        scores = {"loss": loss, "bits_per_character": loss / math.log(2)}
        metrics = {k: _finite(v) for k, v in (scores | norms | leaves).items()}
        lines.append({"step": step, "split": "train", "seconds": step / 20, "metrics": metrics})
        if step % 400 == 0:
            scores = {k: v + 0.12 * (1 - fall) for k, v in scores.items()}
            scores["accuracy"] = 0.52 - 0.5 * fall
            metrics = {k: _finite(v) for k, v in scores.items()}
            lines.append({"step": step, "split": "validation", "seconds": 1.0, "metrics": metrics})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    verse = (
        "ROMEO:\nWhat light the morning of the sea is come,\nAnd so I would the prince be with the"
        " rest:\nThe king hath seen it, and the world is done.\n\nNURSE:\nA pox upon the father of"
        " my breast!\nI know not what to say, but speak it not;\nThe hour is past, and all the"
        " honour got.\n"
    )
    samples = [
        {"step": step, "seed": 0, "temperature": t, "prompt": "ROMEO:\n", "text": verse[7:] * 2}
        for step in (1000, 2000, 4000)
        for t in (0.5, 0.8)
    ]
    samples.append(samples[-1] | {"step": 4000, "temperature": 1.2, "text": HOSTILE + "x" * 200})
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    (folder / "config.toml").write_text(
        'kind = "training"\nname = "shakespeare"\n\n[task]\nkind = "characters"\nwindow = 128\n'
        'holdout = 0.1\n\n[model]\ncell = "lstm"\nhidden_size = 256\nlayers = 3\n'
        'forget_bias = 1.0\nrecurrent_init = "orthogonal"\n\n[optimizer]\nkind = "adam"\n'
        "learning_rate = 0.003\nclip = 1.0\n\n[train]\nsteps = 4000\nbatch_size = 64\n"
        f'note = "{"a-very-long-word-without-any-break-" * 5}"\n'
    )
    manifest(
        folder,
        kind="training",
        name="shakespeare",
        question="How many bits does a three-layer character LSTM need for a character of plays "
        "it has never read?",
        seeds=list(range(seeds)),
        baselines={
            "unigram bits_per_character": 4.79,
            "bigram bits_per_character": 3.59,
        },
        summary=[
            {
                "metric": "validation bits_per_character",
                "values": [2.24, 2.27, 2.31, 2.22, 2.29][:seeds],
                "mean": 2.266, "low": 2.234, "high": 2.298,
                "expected": "< 2.7", "verdict": "met",
            },
            {
                "metric": "validation accuracy",
                "values": [0.51, 0.52, 0.53, 0.50, None][:seeds],
                "mean": 0.515, "low": None, "high": None,
                "expected": "> 0.6", "verdict": "missed",
            },
            {
                "metric": "characters a second",
                "values": [81234.0], "mean": 81234.0, "low": None, "high": None,
                "expected": None, "verdict": "reported",
            },
        ],
    )  # fmt: skip
    return folder


def study(folder: Path) -> Path:
    """Vanishing gradients: shared y axes, theory, references, gaps, twelve lines, a heatmap."""
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    steps = np.arange(1, 201)

    def decay(rate: float, wobble: int) -> list:
        rng = np.random.default_rng(wobble)
        return _finite(np.exp(-rate * (200 - steps) + 0.15 * rng.normal(size=200).cumsum() / 10))

    def line(label: str, y: list, **more) -> dict:
        return {"label": label, "role": "measured", "x": steps.tolist(), "y": y} | more

    time = {"label": "time step t", "scale": "linear"}
    norm = {"label": "‖∂L/∂h_t‖ / ‖∂L/∂h_T‖", "scale": "log"}
    panels = []
    for title, scale in (
        ("Simple RNN", 1.0),
        ("LSTM, forget bias 0", 0.35),
        ("LSTM, forget bias 1", 0.1),
    ):
        series = []
        for i, gain in enumerate((0.5, 0.9, 1.0, 1.5)):
            y = decay(-scale * math.log(gain) * 0.8, i)
            low = [v / 2 for v in y]
            high = [v * 2 for v in y]
            series.append(line(f"gain {gain}", y, low=low, high=high))
        series.append(
            line("theory: gᵀ⁻ᵗ at gain 0.5", _finite(0.5 ** (200.0 - steps)), role="theory")
        )
        series.append(line("no decay", [1.0] * 200, role="reference"))
        panels.append({"title": title, "x": time, "y": norm, "series": series})
    panels[0]["series"][1]["y"][80:95] = [None] * 15
    lengths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    figures = {
        "1-flow": {
            "title": "How much of the gradient reaches step t",
            "caption": "Norm of the gradient at each hidden state relative to the last; mean over "
            "10 draws, the band is a factor of two. Dashed: what the linear theory says.",
            "kind": "lines", "panels": panels,
        },
        "2-many": {
            "title": "Twelve cells, and a title that goes on for rather longer than is comfortable "
            "to read",
            "caption": "Forget time constants.",
            "kind": "lines",
            "panels": [{
                "title": "",
                "x": {"label": "length T (time steps)", "scale": "log"},
                "y": {"label": "‖∂c_T/∂c_0‖", "scale": "log"},
                "series": [
                    {
                        "label": f"LSTM with forget bias {i / 2}, recurrent kernel orthogonal "
                        f"per gate, variant number {i}",
                        "role": "measured",
                        "x": lengths,
                        "y": [math.exp(-t / (10 * 1.6**i)) for t in lengths],
                    }
                    for i in range(12)
                ],
            }],
        },
        "3-map": {
            "title": "Critical gain", "caption": "Largest Lyapunov exponent.", "kind": "heatmap",
            "panels": [
                {
                    "title": "tanh RNN",
                    "x": {"label": "recurrent gain", "values": [0.5, 0.9, 1.25, 1.5, 2, 3]},
                    "y": {"label": "input variance", "values": [0, 0.1, 0.5, 1.0]},
                    "z": {"label": "λ₁ (1/step)", "values": [
                        [-0.6931, -0.1054, 0.0235, 0.0652, 0.1547, 0.3103],
                        [-0.71, -0.2, -0.05, 0.02, 0.12, 0.29],
                        [-0.8, -0.3, -0.15, -0.05, 0.07, None],
                        [-0.9, -0.4, -0.25, -0.1, 0.02, 0.21]]},
                },
                {
                    "title": "LSTM",
                    "x": {"label": "recurrent gain", "values": [0.1 * i for i in range(40)]},
                    "y": {"label": "input variance", "values": [0.05 * i for i in range(30)]},
                    "z": {"label": "λ₁ (1/step)", "values": [
                        [0.02 * c - 0.03 * r for c in range(40)] for r in range(30)]},
                },
            ],
        },
    }  # fmt: skip
    for name, figure in figures.items():
        (folder / "figures" / f"{name}.json").write_text(json.dumps(figure))
    table = {
        "title": "Held against theory",
        "caption": "Intervals are 95 % bootstrap intervals over ten draws of the parameters.",
        "columns": ["quantity", "of", "predicted", "measured", "low", "high", "note", "verdict"],
        "rows": [
            ["slope of ln‖∂L/∂h_t‖", "RNN, g = 0.9", -0.1054, -0.1049, -0.11, -0.0998, "", "met"],
            ["slope of ln‖∂L/∂h_t‖", "RNN, g = 1.25", 0.0235, 0.0402, 0.0385, 0.042, "", "missed"],
            ["∏ f_t over 100 steps", "LSTM", 7.889e-31, 7.8886e-31, None, None, "exact", "met"],
            ["dx_N/dw", "w = 0.99, N = 1000", 0.0436, 0.0436, None, None, HOSTILE, "reported"],
        ],
    }  # fmt: skip
    (folder / "tables" / "theory.json").write_text(json.dumps(table))
    (folder / "config.toml").write_text('kind = "study"\nname = "vanishing"\ngains = [0.5, 0.9]\n')
    manifest(
        folder,
        kind="study",
        name="vanishing-and-exploding-gradients-of-simple-and-gated-networks",
        question="Does a gradient reach the first step of a sequence, in an RNN and in an LSTM?",
        command="jaxlstm study configs/studies/vanishing.toml",
        parameters=None,
        summary=[
            {"metric": f"identity {i}", "values": [10.0**-i], "mean": 10.0**-i, "low": None,
             "high": None, "expected": "within 0.02", "verdict": "met" if i % 3 else "missed"}
            for i in range(5)
        ],
    )  # fmt: skip
    return folder
