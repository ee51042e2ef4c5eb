"""Trainings: an experiment becomes a run folder."""

from jaxlstm.training.loop import Training as Training
from jaxlstm.training.loop import device as device
from jaxlstm.training.loop import prepare as prepare
from jaxlstm.training.loop import resume as resume
from jaxlstm.training.loop import run as run
