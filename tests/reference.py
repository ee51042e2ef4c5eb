"""RNN and LSTM in NumPy, forward and with backpropagation through time written by hand.

Independent of the library: no jax, no autodiff, one sequence, one step after the other.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rnn_forward(kernel, recurrent_kernel, bias, inputs, h0):
    """Hidden states [T + 1, H] of h = tanh(x W + h U + b), the first being h0."""
    states = [h0]
    for x in inputs:
        states.append(np.tanh(x @ kernel + states[-1] @ recurrent_kernel + bias))
    return np.array(states)


def rnn_backward(kernel, recurrent_kernel, bias, inputs, h0, d_outputs):
    """Adjoints of everything, for given dL/doutput [T, H] with output_t = h_t."""
    states = rnn_forward(kernel, recurrent_kernel, bias, inputs, h0)
    steps = len(inputs)
    grads = {
        "kernel": np.zeros_like(kernel),
        "recurrent_kernel": np.zeros_like(recurrent_kernel),
        "bias": np.zeros_like(bias),
        "inputs": np.zeros_like(inputs),
        "hidden": np.zeros((steps, len(h0))),
    }
    back = np.zeros_like(h0)
    for t in reversed(range(steps)):
        dh = d_outputs[t] + back
        grads["hidden"][t] = dh
        dz = dh * (1 - states[t + 1] ** 2)
        grads["kernel"] += np.outer(inputs[t], dz)
        grads["recurrent_kernel"] += np.outer(states[t], dz)
        grads["bias"] += dz
        grads["inputs"][t] = kernel @ dz
        back = recurrent_kernel @ dz
    grads["h0"] = back
    return grads


def lstm_forward(kernel, recurrent_kernel, bias, inputs, h0, c0):
    """Hidden and cell states [T + 1, H] each, and the gates [T, 4, H] in the order i, f, g, o."""
    size = len(h0)
    hidden, cell, gates = [h0], [c0], []
    for x in inputs:
        z = x @ kernel + hidden[-1] @ recurrent_kernel + bias
        i, f = sigmoid(z[:size]), sigmoid(z[size : 2 * size])
        g, o = np.tanh(z[2 * size : 3 * size]), sigmoid(z[3 * size :])
        cell.append(f * cell[-1] + i * g)
        hidden.append(o * np.tanh(cell[-1]))
        gates.append((i, f, g, o))
    return np.array(hidden), np.array(cell), np.array(gates)


def lstm_backward(kernel, recurrent_kernel, bias, inputs, h0, c0, d_outputs):
    """Adjoints of everything, for given dL/doutput [T, H] with output_t = h_t."""
    hidden, cell, gates = lstm_forward(kernel, recurrent_kernel, bias, inputs, h0, c0)
    steps, size = len(inputs), len(h0)
    grads = {
        "kernel": np.zeros_like(kernel),
        "recurrent_kernel": np.zeros_like(recurrent_kernel),
        "bias": np.zeros_like(bias),
        "inputs": np.zeros_like(inputs),
        "hidden": np.zeros((steps, size)),
        "cell": np.zeros((steps, size)),
    }
    back_h, back_c = np.zeros(size), np.zeros(size)
    for t in reversed(range(steps)):
        i, f, g, o = gates[t]
        shown = np.tanh(cell[t + 1])
        dh = d_outputs[t] + back_h
        dc = dh * o * (1 - shown**2) + back_c
        grads["hidden"][t], grads["cell"][t] = dh, dc
        dz = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * cell[t] * f * (1 - f),
                dc * i * (1 - g**2),
                dh * shown * o * (1 - o),
            ]
        )
        grads["kernel"] += np.outer(inputs[t], dz)
        grads["recurrent_kernel"] += np.outer(hidden[t], dz)
        grads["bias"] += dz
        grads["inputs"][t] = kernel @ dz
        back_h, back_c = recurrent_kernel @ dz, dc * f
    grads["h0"], grads["c0"] = back_h, back_c
    return grads
