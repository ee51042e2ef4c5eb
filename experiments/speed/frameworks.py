"""The other frameworks, with the same weights."""

import contextlib
import operator
import os

import jax
import jax.numpy as jnp
import numpy as np
from engines import OnJax, Ours, OursCudnn, OursSpread, Plain, cell_of, parts, weights_of

import jaxlstm as jl


class Keras(OnJax):
    """keras.layers.LSTM, stateless."""

    def build(self):
        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        case, self.layers = self.case, []
        for _ in range(case.layers):
            layer = keras.layers.LSTM(case.hidden, return_sequences=True)
            if case.bidirectional:
                layer = keras.layers.Bidirectional(layer)
            self.layers.append(layer)
        size, weights = case.inputs, []
        for index, layer in enumerate(self.layers):
            layer.build((case.batch, case.length, size))
            size = case.hidden * (2 if case.bidirectional else 1)
            mine = self.params[index] if case.layers > 1 else self.params
            cell = (
                cell_of(case)
                if case.layers == 1
                else jl.lstm(input_size=mine.kernel.shape[0], hidden_size=case.hidden)
            )
            weights.append(jl.convert.keras.dump(cell, mine))
        return weights

    def apply(self, weights, inputs):
        x = inputs
        for layer, given in zip(self.layers, weights, strict=True):
            others = [variable.value for variable in layer.non_trainable_variables]
            mask = self.mask[..., 0] if self.case.ragged else None
            x, _ = layer.stateless_call(given, others, x, mask=mask)
        return x

    def begin(self):
        return [jnp.zeros((1, self.case.hidden))] * 2

    def step(self, weights, state, x):
        (output, state), _ = self.layers[0].cell.stateless_call(weights[0], [], x, state)
        return state, output

    def back(self, gradients):
        structure = jax.tree.structure(self.params)
        return structure.unflatten([leaf for layer in gradients for leaf in layer])


class Flax(OnJax):
    """nnx.RNN over nnx.OptimizedLSTMCell."""

    def build(self):
        from flax import nnx

        self.graph, states = [], []
        for layer in parts(self.params):
            size = layer.kernel.shape[0]
            rnn = nnx.RNN(nnx.OptimizedLSTMCell(size, self.case.hidden, rngs=nnx.Rngs(0)))
            graph, params, rest = nnx.split(rnn, nnx.Param, ...)
            cell = jl.lstm(input_size=size, hidden_size=self.case.hidden)
            found = jl.convert.flax.dump(cell, layer, "nnx_optimized")
            nnx.replace_by_pure_dict(params, {"cell": found})
            states.append(params)
            self.graph.append((graph, rest))
        return states

    def apply(self, weights, inputs):
        from flax import nnx

        x, at = inputs, 0
        for _ in range(self.case.layers):
            both = []
            for reverse in (False, True)[: 2 if self.case.bidirectional else 1]:
                graph, rest = self.graph[at]
                rnn = nnx.merge(graph, weights[at], rest)
                zeros = (jnp.zeros((self.case.batch, self.case.hidden)),) * 2
                more = {"reverse": reverse, "keep_order": reverse}
                both.append(rnn(x, initial_carry=zeros, seq_lengths=self.lengths, **more))
                at += 1
            x = jnp.concatenate(both, axis=-1)
        return x

    def begin(self):
        return (jnp.zeros((1, self.case.hidden)),) * 2

    def step(self, weights, state, x):
        from flax import nnx

        graph, rest = self.graph[0]
        return nnx.merge(graph, weights[0], rest).cell(state, x)

    def back(self, gradients):
        layers = []
        for mine, state in zip(parts(self.params), gradients, strict=True):
            from flax import nnx

            cell = jl.lstm(input_size=mine.kernel.shape[0], hidden_size=self.case.hidden)
            layers.append(jl.convert.flax.load(nnx.to_pure_dict(state)["cell"], cell)[1])
        return jax.tree.structure(self.params).unflatten(jax.tree.leaves(layers))


class Haiku(OnJax):
    """hk.LSTM under hk.dynamic_unroll."""

    def build(self):
        import haiku as hk

        def network(inputs):
            core = hk.LSTM(self.case.hidden)
            begin = core.initial_state(inputs.shape[0])
            return hk.dynamic_unroll(core, inputs, begin, time_major=False)[0]

        self.network = hk.without_apply_rng(hk.transform(network))
        one = hk.without_apply_rng(hk.transform(lambda x, s: hk.LSTM(self.case.hidden)(x, s)))
        self.one = one
        self.cell = cell_of(self.case)
        weights = jl.convert.haiku.dump(self.cell, self.params)
        (module,) = weights.values()
        return {"lstm/linear": module}

    def apply(self, weights, inputs):
        return self.network.apply(weights, inputs)

    def begin(self):
        import haiku as hk

        return hk.LSTMState(*(jnp.zeros((1, self.case.hidden)),) * 2)

    def step(self, weights, state, x):
        output, state = self.one.apply(weights, x, state)
        return state, output

    def back(self, gradients):
        found = jl.convert.haiku.load(gradients, self.cell)[1]
        size = self.case.hidden
        bias = np.array(found.bias)
        bias[size : 2 * size] -= 1  # which `load` adds to a weight, and a gradient has not
        return found._replace(bias=bias)


class Equinox(OnJax):
    """eqx.nn.LSTMCell in a scan, mapped over the batch."""

    def build(self):
        import equinox as eqx

        case = self.case
        self.cell = cell_of(case)
        found = jl.convert.equinox.dump(self.cell, self.params)
        module = eqx.nn.LSTMCell(case.inputs, case.hidden, key=jax.random.key(0))
        for name, value in found.items():
            where = operator.attrgetter(name)
            module = eqx.tree_at(where, module, jnp.asarray(value))
        return module

    def apply(self, weights, inputs):
        def row(xs):
            zeros = jnp.zeros(self.case.hidden)

            def body(state, x):
                state = weights(x, state)
                return state, state[0]

            return jax.lax.scan(body, (zeros, zeros), xs)[1]

        return jax.vmap(row)(inputs)

    def begin(self):
        return (jnp.zeros(self.case.hidden),) * 2

    def step(self, weights, state, x):
        state = weights(x[0], state)
        return state, state[0]

    def back(self, gradients):
        return jl.convert.equinox.load(gradients, self.cell)[1]


class Torch:
    """torch.nn.LSTM, eager, as its users call it, on what JAX runs on."""

    context = contextlib.nullcontext

    def __init__(self, case):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        # Products in TF32 on a GPU, as JAX has them there by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.torch, self.case, self.cell = torch, case, cell_of(case)
        self.module = torch.nn.LSTM(
            case.inputs,
            case.hidden,
            batch_first=True,
            num_layers=case.layers,
            bidirectional=case.bidirectional,
        )
        state = jl.convert.torch.dump(self.cell, weights_of(case))
        self.module.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
        self.place = {
            "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
            "dtype": getattr(torch, case.dtype),
        }
        self.module.to(**self.place)
        inputs, lengths = case.arrays()
        self.inputs, self.lengths = torch.tensor(inputs, **self.place), torch.tensor(lengths)

    def compile(self):
        torch, utils = self.torch, self.torch.nn.utils.rnn

        def apply():
            if not self.case.ragged:
                return self.module(self.inputs)[0]
            packed = utils.pack_padded_sequence(self.inputs, self.lengths, batch_first=True)
            found = self.module(packed)[0]
            return utils.pad_packed_sequence(
                found, batch_first=True, total_length=self.case.length
            )[0]

        def forward():
            with torch.inference_mode():
                outputs = apply()
            self.wait()
            return outputs

        def gradient():
            self.module.zero_grad(set_to_none=True)
            apply().square().sum().backward()
            self.wait()

        self.forward, self.gradient = forward, gradient
        return None, None

    def wait(self):
        if self.place["device"] == "cuda":
            self.torch.cuda.synchronize()

    def results(self):
        def single(tensor):
            return tensor.float().cpu().numpy()

        self.gradient()
        state = {
            name: single(p.grad * 0 if "bias_hh" in name else p.grad)
            for name, p in self.module.named_parameters()
        }
        gradients = jl.convert.torch.load(state, self.cell)[1]
        leaves = map(np.asarray, jax.tree.leaves(gradients))
        return [single(self.forward()), *(np.asarray(leaf, "float32") for leaf in leaves)]

    def stepper(self):
        torch = self.torch
        cell = torch.nn.LSTMCell(self.case.inputs, self.case.hidden, **self.place)
        x = self.inputs[:, 0]
        state = (torch.zeros(1, self.case.hidden, **self.place),) * 2

        def advance():
            nonlocal state
            with torch.inference_mode():
                state = cell(x, state)
            self.wait()

        return advance


ENGINES = {
    "jaxlstm": OursSpread,
    "jaxlstm-one": Ours,
    "jaxlstm-cudnn": OursCudnn,
    "scan": Plain,
    "torch": Torch,
    "keras": Keras,
    "flax": Flax,
    "haiku": Haiku,
    "equinox": Equinox,
}
