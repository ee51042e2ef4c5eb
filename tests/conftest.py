"""Strictness for every test: no silent promotion of types or ranks."""

import os

import abilities
import jax
import programs
import promises
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # before any backend starts: something to shard over
# Half of a test is compiling: each worker has one core for it.
FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # later versions lack the flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def lenient():
    """For other frameworks, which promote types and ranks as they please."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def fresh_programs():
    """For a test that pretends what the platform is: its programs are of nobody else."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compile_fast():
    """For modules of small programs, each run once: compile with little optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # or other modules would meet these programs, which round otherwise


# The table of abilities: each test says by its marker what it shows, the report carries it.


def pytest_addoption(parser):
    parser.addoption("--abilities", metavar="FILE", help="write cells x abilities to this file")
    parser.addoption("--promises", metavar="FILE", help="write what tests have seen to this file")


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("ability"):
            name = marker.kwargs.get("cell") or abilities.name_of(item.callspec.params["cell"])
            item.user_properties.append(("ability", (name, marker.args[0])))


def pytest_configure(config):
    programs.keep(config.cache.mkdir("xla"), tidy=not hasattr(config, "workerinput"))
    if config.getoption("--abilities") and not hasattr(config, "workerinput"):
        table = abilities.Table(config.getoption("--abilities"))
        config.pluginmanager.register(table, "abilities")
    if config.getoption("--promises") and not hasattr(config, "workerinput"):
        table = promises.Table(config.getoption("--promises"))
        config.pluginmanager.register(table, "promises")


@pytest.fixture
def seen(request):
    """Say what a test of a promise has seen: `seen("kill", "kills survived", 50)`."""

    def say(promise, figure, number):
        assert promise in promises.PROMISES
        request.node.user_properties.append(("promise", (promise, figure, number)))

    return say
