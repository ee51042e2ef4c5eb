"""Compiled programs, kept from one run of the tests to the next: half of a test is compiling.

They lie in pytest's own cache: `pytest --cache-clear` begins anew. The workers of a run share them
too. JAX tells programs apart by their text, its version and all options, but not by the processor
whose instructions they are made of, so that each kind of processor has a folder.
"""

import hashlib
import platform
import re
import shutil
from pathlib import Path

import jax

MOST = 1 << 30
"""Bytes from which on all are thrown away: those of one run take a tenth of it."""


def keep(folder: Path, *, tidy: bool) -> None:
    """Let JAX keep what it compiles here; make room first if it is for us to tidy up."""
    mine = folder / _processor()
    if tidy and sum(file.stat().st_size for file in mine.glob("*")) > MOST:
        shutil.rmtree(mine)
    jax.config.update("jax_compilation_cache_dir", str(mine))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """Name what instructions there are."""
    known = Path("/proc/cpuinfo")
    text = known.read_text() if known.exists() else platform.processor()
    flags = re.findall(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    told = [platform.machine(), *sorted(set(flags or [text]))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
