"""The factories that a saved description may name."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxlstm.cells import describe, initializers
from jaxlstm.cells.combine import bidirectional, residual, stack
from jaxlstm.cells.conv_lstm import conv_lstm
from jaxlstm.cells.gru import gru, mgu
from jaxlstm.cells.layer_norm import layer_norm_lstm
from jaxlstm.cells.lstm import lstm, lstmp
from jaxlstm.cells.lstm_1997 import lstm_1997
from jaxlstm.cells.minimal import min_gru, min_lstm
from jaxlstm.cells.mlstm import mlstm
from jaxlstm.cells.noise import dropout, recurrent_dropout, weight_drop, zoneout
from jaxlstm.cells.rnn import indrnn, rnn
from jaxlstm.cells.slstm import slstm

CELLS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        rnn,
        indrnn,
        gru,
        mgu,
        lstm,
        lstmp,
        lstm_1997,
        layer_norm_lstm,
        conv_lstm,
        slstm,
        mlstm,
        min_gru,
        min_lstm,
    )
}
COMBINATORS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (stack, residual, bidirectional, dropout, recurrent_dropout, zoneout, weight_drop)
}
INITIALIZERS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        initializers.orthogonal,
        initializers.identity,
        initializers.ginibre,
        initializers.glorot_uniform,
        initializers.normal,
        initializers.uniform,
        initializers.constant,
        initializers.forget_bias,
        initializers.chrono,
    )
}


def from_dict(
    data: Mapping[str, Any], factories: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Build again what `to_dict` described: a cell, or an initialiser.

    Args:
        data: what `to_dict` gave.
        factories: factories of your own by name, besides those of the library; nothing else is
            called.

    Returns:
        An object equal to the one described.

    Raises:
        ValueError: when the description names an unknown factory.

    Examples:
        >>> import jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4, recurrent_init=jl.initializers.identity())
        >>> jl.from_dict(jl.to_dict(cell)) == cell
        True
    """
    return describe.rebuild(data, {**INITIALIZERS, **CELLS, **COMBINATORS, **(factories or {})})
