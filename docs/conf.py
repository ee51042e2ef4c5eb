"""How the guide is built: `make docs`, offline and strict."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# The kernels that run the cells of the pages see the same code, and write nothing to the home.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE / "_ext"), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
profile = HERE / "_build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
os.environ["IPYTHONDIR"] = str(profile.parent)

import jaxlstm  # noqa: E402
from jaxlstm.report import style  # noqa: E402

project = "jaxlstm"
author = "The jaxlstm authors"
copyright = "The jaxlstm authors, Apache 2.0"
release = version = jaxlstm.__version__

extensions = ["myst_nb", "mathml", "diagrams", "reference", "keys", "results", "links"]
# Generated tables come in through `results`, which looks after their links.
exclude_patterns = ["_build", "_ext", "abilities.md", "promises.md"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

nb_execution_mode = "force"  # a cache would show what older code gave
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_merge_streams = True

nitpicky = True
highlight_language = "none"
html_math_renderer = "mathml"
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "jaxlstm"
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

# The colours of the reports, as drawn figures name them.
html_theme_options = {
    "light_css_variables": style.LIGHT,
    "dark_css_variables": style.DARK,
}
