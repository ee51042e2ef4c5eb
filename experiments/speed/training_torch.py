"""The trainings of three configs, written in torch as its users write them.

    python training_torch.py check NAME      equal to jaxlstm: the same weights, batches and updates
    python training_torch.py run NAME FILE   train on the data of FILE, and say how long it took

The network is `nn.LSTM` and a linear layer, with Adam fused, gradients clipped and the learning
rate of the config; ragged batches are packed. Its second bias is held at zero, since ours has one.
"""

import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence

CHECKED = 5
"""Updates after which the parameters must still be equal."""


class Network(nn.Module):
    """An LSTM, and a linear readout of every step or of the last."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.lstm = nn.LSTM(sizes["input"], sizes["hidden"], batch_first=True)
        self.readout = nn.Linear(sizes["hidden"], sizes["output"])
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)

    def forward(self, inputs, lengths=None, state=None):
        if self.sizes["tokens"]:
            inputs = functional.one_hot(inputs, self.sizes["input"]).float()
        if lengths is not None:
            inputs = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        outputs, state = self.lstm(inputs, state)
        read = outputs if self.sizes["every_step"] else state[0][-1]
        return self.readout(read), state


def loss_of(outputs, targets):
    if targets.is_floating_point():
        return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Trainer:
    """The updates of one network."""

    def __init__(self, network, plan):
        self.network, self.plan = network, plan
        learnt = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learnt, lr=plan["rate"], fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.course)

    def course(self, step):
        warmup, steps = self.plan["warmup"], self.plan["steps"]
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    def update(self, inputs, targets, lengths=None):
        self.optimizer.zero_grad()
        loss = loss_of(self.network(inputs, lengths)[0], targets)
        loss.backward()
        clip_grad_norm_(self.network.parameters(), self.plan["clip"])
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()


def batches(name, plan, data):
    """Draw batches without end, as the tasks do."""
    size = plan["batch"]
    while True:
        if name == "adding":
            length, rows = plan["length"], torch.arange(size)
            values, markers = torch.rand(size, length), torch.zeros(size, length)
            half = length // 2
            markers[rows, torch.randint(half, (size,))] = 1
            markers[rows, torch.randint(half, length, (size,))] = 1
            yield torch.stack([values, markers], -1), (values * markers).sum(-1, keepdim=True)
        elif name == "shakespeare":
            window = plan["length"]
            starts = torch.randint(len(data["text"]) - window, (size, 1))
            windows = data["text"][starts + torch.arange(window + 1)]
            yield windows[:, :-1], windows[:, 1:]
        else:
            chosen = torch.randperm(len(data["targets"]))[:size]
            yield data["inputs"][chosen], data["targets"][chosen], data["lengths"][chosen]


@torch.no_grad()
def score(network, data):
    """The score of the goal's set: squared error, bits per character, or accuracy."""
    targets, lengths = data["eval targets"], data.get("eval lengths")
    outputs = network(data["eval inputs"], lengths)[0]
    if lengths is not None:
        return float((outputs.argmax(-1) == targets).float().mean())
    loss = float(loss_of(outputs, targets))
    return loss if targets.is_floating_point() else loss / math.log(2)


@torch.no_grad()
def write(network, plan, prompt):
    """Let the network write, one character after the other."""
    logits, state = network(prompt[None])
    written = []
    for _ in range(plan["characters"]):
        chances = torch.softmax(logits[:, -1] / plan["temperature"], -1)
        symbol = torch.multinomial(chances, 1)
        written.append(int(symbol))
        logits, state = network(symbol, state=state)
    return written


def train(name, plan, data, folder):
    """Train one seed, with the scores, samples, checkpoints and losses that ours writes."""
    trainer = Trainer(Network(plan["sizes"]), plan)
    network, losses, scored = trainer.network, [], None
    for step, batch in zip(range(1, plan["steps"] + 1), batches(name, plan, data), strict=False):
        losses.append(trainer.update(*batch))
        if step % plan["log_every"] == 0 or step == plan["steps"]:
            print(step, float(torch.stack(losses).mean()), file=folder["log"])
            losses = []
        if step % plan["evaluate_every"] == 0 or step == plan["steps"]:
            scored = score(network, data)
        if plan["sample_every"] and step % plan["sample_every"] == 0:
            write(network, plan, data["prompt"])
        if plan["checkpoint_every"] and step % plan["checkpoint_every"] == 0:
            state = [network.state_dict(), trainer.optimizer.state_dict()]
            torch.save(state, folder["path"] / f"{step}.pt")
    return scored


def run(name, file):
    """Train every seed, one after the other, on all cores."""
    with np.load(file) as arrays:
        data = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "plan"}
        plan = json.loads(str(arrays["plan"]))
    data = {key: a.long() if a.dtype == torch.int32 else a for key, a in data.items()}
    begin, scores = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as path, open(Path(path) / "log.txt", "w") as log:
        for seed in range(plan["seeds"]):
            torch.manual_seed(seed)
            scores.append(train(name, plan, data, {"path": Path(path), "log": log}))
    print(json.dumps({"seconds": time.perf_counter() - begin, "scores": scores}))


def check(name):
    """The largest difference of the parameters after some updates on the same batches."""
    import jax
    import jax.numpy as jnp
    from training import plan_of

    import jaxlstm as jl
    from jaxlstm import config
    from jaxlstm.training.prepare import prepare

    with jl.spread():
        training = prepare(config.load(f"configs/{name}.toml"))
        state = training.states()[0]
        # Cosine and warmup begin at zero: the first update does nothing in either.
        plan = plan_of(training)
        network = Network(plan["sizes"])
        trainer = Trainer(network, plan)
        lstm = jl.convert.torch.dump(training.network.cell, state.params.cell)
        weights = {f"lstm.{key}": torch.tensor(np.asarray(a)) for key, a in lstm.items()}
        weights["readout.weight"] = torch.tensor(np.asarray(state.params.readout.kernel).T)
        weights["readout.bias"] = torch.tensor(np.asarray(state.params.readout.bias))
        network.load_state_dict(weights)
        for step in range(CHECKED):
            key = jax.random.fold_in(state.key, step)
            batch = training.task.sample(training.task.data, key, plan["batch"])
            arrays = [torch.tensor(np.asarray(a)) for a in batch[:3] if a is not None]
            arrays = [a.long() if a.dtype == torch.int32 else a for a in arrays]
            trainer.update(*arrays)
        ours = training.update.advance(state, training.task.data, jnp.int32(CHECKED)).params
    pairs = (
        (ours.cell.kernel, network.lstm.weight_ih_l0),
        (ours.cell.recurrent_kernel, network.lstm.weight_hh_l0),
        (ours.readout.kernel, network.readout.weight),
    )
    apart = [float(np.abs(np.asarray(a).T - b.detach().numpy()).max()) for a, b in pairs]
    print(json.dumps({"difference": max(apart)}))


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    check(sys.argv[2]) if sys.argv[1] == "check" else run(*sys.argv[2:])
