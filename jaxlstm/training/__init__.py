"""Trainings: an experiment becomes a run folder."""

from jaxlstm.training import processes as processes
from jaxlstm.training.export import export as export
from jaxlstm.training.loop import device as device
from jaxlstm.training.loop import resume as resume
from jaxlstm.training.loop import run as run
from jaxlstm.training.mesh import ask_for_devices_of as ask_for_devices_of
from jaxlstm.training.prepare import Training as Training
from jaxlstm.training.prepare import prepare as prepare
from jaxlstm.training.restore import restore as restore
from jaxlstm.training.writing import Written as Written
from jaxlstm.training.writing import write as write
