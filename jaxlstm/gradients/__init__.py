"""Gradients as an instrument: what flows back through a cell, measured and held to theory."""

from jaxlstm.gradients import theory as theory
from jaxlstm.gradients.bounds import Bounds as Bounds
from jaxlstm.gradients.bounds import WeightBound as WeightBound
from jaxlstm.gradients.bounds import bounds as bounds
from jaxlstm.gradients.bounds import weight_bound as weight_bound
from jaxlstm.gradients.flow import Flow as Flow
from jaxlstm.gradients.flow import flow as flow
from jaxlstm.gradients.gates import Saturation as Saturation
from jaxlstm.gradients.gates import Timescales as Timescales
from jaxlstm.gradients.gates import gates as gates
from jaxlstm.gradients.gates import memory_timescales as memory_timescales
from jaxlstm.gradients.gates import saturation as saturation
from jaxlstm.gradients.interventions import flossing as flossing
from jaxlstm.gradients.interventions import norm_penalty as norm_penalty
from jaxlstm.gradients.jacobians import jacobian_norms as jacobian_norms
from jaxlstm.gradients.jacobians import step_jacobians as step_jacobians
from jaxlstm.gradients.lyapunov import Lyapunov as Lyapunov
from jaxlstm.gradients.lyapunov import lyapunov_spectrum as lyapunov_spectrum
from jaxlstm.gradients.spectrum import Spectrum as Spectrum
from jaxlstm.gradients.spectrum import effective_rank as effective_rank
from jaxlstm.gradients.spectrum import jacobian_spectrum as jacobian_spectrum
from jaxlstm.gradients.weights import WeightFlow as WeightFlow
from jaxlstm.gradients.weights import gate_norms as gate_norms
from jaxlstm.gradients.weights import weight_flow as weight_flow
