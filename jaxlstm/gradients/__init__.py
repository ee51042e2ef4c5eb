"""Gradients as an instrument: what flows back through a cell, measured and held to theory."""

from jaxlstm.gradients import theory as theory
from jaxlstm.gradients.flow import Flow as Flow
from jaxlstm.gradients.flow import flow as flow
from jaxlstm.gradients.jacobians import jacobian_norms as jacobian_norms
from jaxlstm.gradients.jacobians import step_jacobians as step_jacobians
from jaxlstm.gradients.lyapunov import Lyapunov as Lyapunov
from jaxlstm.gradients.lyapunov import lyapunov_spectrum as lyapunov_spectrum
