"""A trained run as a file: run by ONNX Runtime, torch and Keras, compared with our predictions."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import cli, config, training
from jaxlstm.training import checkpoints

pytestmark = pytest.mark.usefixtures("compile_fast")

os.environ.setdefault("KERAS_BACKEND", "jax")

CONFIGS = {
    "features": """
kind = "training"
name = "features"
question = "?"
expected = "!"
seeds = 2
task = { kind = "adding", length = 6 }
model = { cell = "lstm", hidden_size = 3, layers = 2 }
optimizer = { kind = "adam", learning_rate = 1e-2 }
train = { steps = 4, batch_size = 2, log_every = 2, steps_per_dispatch = 2 }
""",
    "symbols": """
kind = "training"
name = "symbols"
question = "?"
expected = "!"
task = { kind = "copy", delay = 3 }
model = { cell = "rnn", hidden_size = 5, activation = "relu", embedding_size = 4 }
optimizer = { kind = "adam", learning_rate = 1e-2 }
train = { steps = 2, batch_size = 2, log_every = 2 }
""",
    "gated": """
kind = "training"
name = "gated"
question = "?"
expected = "!"
task = { kind = "adding", length = 6 }
model = { cell = "gru", hidden_size = 3, layers = 2, dropout = 0.3 }
optimizer = { kind = "adam", learning_rate = 1e-2 }
train = { steps = 2, batch_size = 2, log_every = 2 }
""",
    "one-hot": """
kind = "training"
name = "one-hot"
question = "?"
expected = "!"
task = { kind = "copy", delay = 3 }
model = { cell = "lstm", hidden_size = 5 }
optimizer = { kind = "adam", learning_rate = 1e-2 }
train = { steps = 2, batch_size = 2, log_every = 2 }
""",
}


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    """A run, the network of its last seed, inputs, and what the network predicts of them."""
    room = tmp_path_factory.mktemp(request.param)
    (room / "run.toml").write_text(CONFIGS[request.param])
    folder = room / "run"
    assert cli.main(["run", str(room / "run.toml"), "--out", str(folder), "--quiet"]) == 0
    ready = training.prepare(config.load(folder / "config.toml"))
    found = checkpoints.latest(folder, ready.shapes())
    params = found.states[-1].params
    batch = next(iter(ready.task.evaluation.values()))
    inputs = np.asarray(batch.inputs[:3])
    return (
        folder,
        ready,
        params,
        inputs,
        np.asarray(ready.network.apply(params, jnp.asarray(inputs))),
    )


def exported(folder, to, capsys, *more):
    seed = str(config.load(folder / "config.toml").seed_list[-1])
    assert cli.main(["export", str(folder), "--to", to, "--seed", seed, *more]) == 0
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-5, atol=1e-5)


def test_a_run_predicts_the_same_in_the_runtime_of_onnx(run, capsys):
    runtime = pytest.importorskip("onnxruntime")
    folder, ready, _, inputs, wanted = run
    file = exported(folder, "onnx", capsys)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = inputs.astype("int64") if ready.task.tokens else inputs
    lengths = np.full(len(inputs), inputs.shape[1], "int32")
    close(session.run(["outputs"], {"inputs": given, "lengths": lengths})[0], wanted)


def test_a_run_predicts_the_same_in_torch(run, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    folder, ready, _, inputs, wanted = run
    file = exported(folder, "torch", capsys, "--out", str(tmp_path / "net.safetensors"))
    assert file == tmp_path / "net.safetensors"
    state = files.load_file(file)
    spec, task = ready.experiment.model, ready.task

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            width = task.input_size
            if task.tokens:
                self.embedding = torch.nn.Embedding(*state["embedding.weight"].shape)
                width = self.embedding.embedding_dim
            if isinstance(spec, config.RNN):
                kind = torch.nn.RNN
                options = {"nonlinearity": spec.activation}
            else:
                kind = torch.nn.GRU if isinstance(spec, config.GRU) else torch.nn.LSTM
                options = {}
            self.recurrent = kind(width, spec.hidden_size, spec.layers, batch_first=True, **options)
            self.readout = torch.nn.Linear(spec.hidden_size, task.output_size)

        def forward(self, x):
            outputs, _ = self.recurrent(self.embedding(x) if task.tokens else x)
            return self.readout(outputs if task.every_step else outputs[:, -1])

    net = Net()
    net.load_state_dict(state)
    given = torch.tensor(inputs.astype("int64") if task.tokens else inputs)
    close(net(given).detach(), wanted)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.usefixtures("lenient")
def test_a_run_predicts_the_same_in_keras(run, capsys):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    folder, _, _, inputs, wanted = run
    file = exported(folder, "keras", capsys)
    model = keras.models.load_model(file)
    close(model(inputs), wanted)
    # And the file is one that we take in again.
    cell, params = jl.convert.keras.load(file)
    assert jl.output_shape(cell)[-1] == model.layers[-1].get_weights()[0].shape[0]
    assert params is not None


def test_our_own_file_gives_the_network_back(run, capsys):
    pytest.importorskip("safetensors")
    folder, ready, params, _, _ = run
    file = exported(folder, "safetensors", capsys)
    cell, found = jl.convert.safetensors.load(file)
    assert cell == ready.network.cell
    jax.tree.map(np.testing.assert_array_equal, found, params.cell)
    arrays, metadata = jl.convert.safetensors.read(file)
    np.testing.assert_array_equal(arrays["readout.kernel"], params.readout.kernel)
    assert json.loads(metadata["jaxlstm.others"])[-1] == "readout.kernel"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "tensorflow"], "--to"),
        ([], "--to"),
        (["--to", "onnx", "--seed", "99"], "--seed: expected one of 0"),
        (
            ["--to", "onnx", "--out", "no/such/folder/x.onnx"],
            "export: cannot write 'no/such/folder",
        ),
        (["--to", "keras", "--out", "x.h5"], "--out: expected a name that ends with .keras, got"),
        (["--to", "torch", "--out", "x"], "--out: expected a name that ends with .safetensors"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(run, capsys, more, message):
    folder = run[0]
    before = sorted(folder.rglob("*"))
    assert cli.main(["export", str(folder), *more]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert message in said
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_network_of_1997_goes_into_our_own_file_alone(tmp_path, capsys):
    pytest.importorskip("safetensors")
    text = CONFIGS["symbols"].splitlines()
    model = 'model = { cell = "lstm-1997", blocks = 2, readout_bias = false }'
    text = [model if line.startswith("model") else line for line in text]
    (tmp_path / "run.toml").write_text("\n".join(text))
    folder = tmp_path / "run"
    assert cli.main(["run", str(tmp_path / "run.toml"), "--out", str(folder), "--quiet"]) == 0
    capsys.readouterr()
    arrays, _ = jl.convert.safetensors.read(exported(folder, "safetensors", capsys))
    assert arrays["readout.kernel"].shape == (2, 9)
    assert "readout.bias" not in arrays
    for other in ("onnx", "torch", "keras"):
        assert cli.main(["export", str(folder), "--to", other]) == 2
        said = capsys.readouterr().err.strip()
        assert "export: `cell` must be made of" in said
        assert "\n" not in said


def test_a_forecast_is_exported_without_its_table(tmp_path, capsys):
    pytest.importorskip("safetensors")
    text = CONFIGS["features"].splitlines()
    task = (
        'task = { kind = "forecast", path = "my.csv", target = "x", horizons = [1, 2], window = 8 }'
    )
    text = [task if line.startswith("task") else line for line in text]
    table = tmp_path / "my.csv"
    table.write_text("\n".join(["x", *(str(t % 7) for t in range(200))]))
    (tmp_path / "run.toml").write_text("\n".join(text).replace("my.csv", str(table)))
    folder = tmp_path / "run"
    assert cli.main(["run", str(tmp_path / "run.toml"), "--out", str(folder), "--quiet"]) == 0
    ready, states = training.restore(folder)
    table.unlink()
    capsys.readouterr()
    arrays, _ = jl.convert.safetensors.read(exported(folder, "safetensors", capsys))
    np.testing.assert_array_equal(arrays["readout.kernel"], states[-1].params.readout.kernel)
    assert arrays["readout.kernel"].shape == (3, ready.task.output_size)
