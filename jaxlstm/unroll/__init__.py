"""Any cell over time: `unroll`, the ways in which it can be done, and the devices that do it."""

from jaxlstm.unroll.devices import spread as spread
from jaxlstm.unroll.sequences import Unrolled as Unrolled
from jaxlstm.unroll.sequences import unroll as unroll
from jaxlstm.unroll.solved import Solved as Solved
from jaxlstm.unroll.solved import newton as newton
