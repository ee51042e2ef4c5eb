"""What one layer of Keras says of itself, as the options of our cell."""

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = {"tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu", "linear": "identity"}
KINDS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}
KINDS |= {f"ConvLSTM{dims}D": "conv_lstm" for dims in (1, 2, 3)}


def config_of(layer: Any) -> dict[str, Any]:
    """What a layer says of itself, as a `.keras` file has it."""
    config = dict(layer.get_config())
    if hasattr(layer, "forward_layer"):
        config["layer"] = config_of(layer.forward_layer)
        config["backward_layer"] = config_of(layer.backward_layer)
    built = getattr(layer, "get_build_config", dict)() or {}
    return {"class_name": type(layer).__name__, "config": config, "build_config": built}


def arrays_in(layer: Any) -> list[list[Any]]:
    """The arrays of a layer, for each of its directions."""
    two = hasattr(layer, "forward_layer")
    sides = [layer.forward_layer, layer.backward_layer] if two else [layer]
    return [side.get_weights() for side in sides]


def options_of(layer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each direction of a layer.

    Raises:
        ValueError: when the layer is none of ours, or has something that we do not.
    """
    config = layer["config"]
    if layer["class_name"] != "Bidirectional":
        if config.get("go_backwards"):
            raise ValueError("`go_backwards` is no matter of weights: load the layer without it")
        return [_options(layer)]
    if config.get("merge_mode") != "concat":
        raise ValueError(f"`merge_mode` must be 'concat', got {config.get('merge_mode')!r}")
    one = config["layer"]
    if one["config"].get("go_backwards"):
        raise ValueError("`go_backwards` of the forward layer must be False, got True")
    shape = layer.get("build_config", {}).get("input_shape")
    halves = (one, config.get("backward_layer") or one)
    return [_options({"build_config": {"input_shape": shape}, **half}) for half in halves]


def _options(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The options of our cell that one layer of Keras asks for."""
    name, config = layer["class_name"], layer["config"]
    if name not in KINDS:
        raise ValueError(f"`weights` must be of {', '.join(KINDS)} or Bidirectional, got {name}")
    options = {}
    for argument in ("activation", "recurrent_activation"):
        if argument not in config:
            continue
        theirs = config[argument]
        if isinstance(theirs, Mapping):  # a function, or a layer
            theirs = theirs.get("class_name") or "a function"
        if theirs not in ACTIVATIONS:
            raise ValueError(
                f"`{argument}` of {name} must be one of {list(ACTIVATIONS)}, got {theirs!r}"
            )
        options[argument] = ACTIVATIONS[theirs]
    if KINDS[name] == "gru":
        options["reset_after"] = config.get("reset_after", True)
    if KINDS[name] == "conv_lstm":
        if config.get("data_format") not in (None, "channels_last"):
            raise ValueError("`data_format` of ConvLSTM must be 'channels_last'")
        shape = layer.get("build_config", {}).get("input_shape")
        if shape and None not in shape[2:]:
            options["input_shape"] = tuple(shape[2:])
        options["padding"] = config.get("padding", "valid")
        for argument in ("strides", "dilation_rate"):
            each = _listed(config.get(argument, 1))
            options[argument] = each[0] if len(set(each)) == 1 else tuple(each)
    return options


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]
