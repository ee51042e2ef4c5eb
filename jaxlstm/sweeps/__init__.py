"""Sweeps: many independent runs, each in a process of its own, here or on a cluster."""

from jaxlstm.sweeps.check import check as check
from jaxlstm.sweeps.drive import prepare as prepare
from jaxlstm.sweeps.drive import run as run
from jaxlstm.sweeps.engines import cluster as cluster
from jaxlstm.sweeps.engines import here as here
from jaxlstm.sweeps.engines import slots as slots
from jaxlstm.sweeps.plan import plan as plan
from jaxlstm.sweeps.summary import Ranked as Ranked
from jaxlstm.sweeps.summary import Standing as Standing
