"""`python -m jaxlstm` is the command `jaxlstm`."""

import sys

from jaxlstm.cli import main

sys.exit(main())
