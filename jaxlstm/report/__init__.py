"""Reports: a run folder becomes figures and one self-contained page.

The page needs nothing but itself: no network, no script, no other file. It is made from the run
folder alone, by `jaxlstm report FOLDER` or by `write`, without jax.
"""

from jaxlstm.report.page import write as write
