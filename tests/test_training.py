"""Trainings, compiled as users have them compiled: the same bits however they are cut."""

import os
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import experiment, go, train

from jaxlstm import config, runs, training
from jaxlstm.errors import UserError
from jaxlstm.training import checkpoints


def interrupt_at(step, monkeypatch):
    """Press ^C before the dispatch that ends at a step."""
    dispatch = training.sitting.Sitting._dispatch

    def interrupted(self, advance, until):
        if until == step:
            os.kill(os.getpid(), signal.SIGINT)
        dispatch(self, advance, until)

    monkeypatch.setattr(training.sitting.Sitting, "_dispatch", interrupted)


def records(folder, name="metrics.jsonl"):
    """What was written down, but for the time it took."""
    found = runs.read_jsonl(folder, name)
    for record in found:
        record.pop("seconds", None)
    return found


def states(folder, made: config.Experiment):
    return checkpoints.latest(folder, training.prepare(made).shapes())


def same_bits(one, other) -> bool:
    one, other = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(one) == len(other) and all(
        np.array_equal(_plain(a), _plain(b)) for a, b in zip(one, other, strict=True)
    )


def _plain(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


# One cut by nothing: what every other way to the same end must equal.
@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert go(folder / "run").state == "finished"
    return folder / "run"


def test_a_run_leaves_what_the_format_says(whole):
    manifest = runs.read_manifest(whole)
    assert manifest.seeds == [0, 1]
    # An LSTM of 5 units on 2 features, and a readout of 5 weights and a bias.
    assert manifest.parameters == 4 * 5 * (2 + 5 + 1) + 5 + 1
    assert manifest.baselines == {"memoryless mse": pytest.approx(1 / 6)}
    assert config.load(whole / "config.toml") == experiment()
    found = records(whole)
    assert [(r["step"], r["split"]) for r in found] == [
        (8, "train"),
        (12, "validation"),
        (16, "train"),
        (24, "train"),
        (24, "validation"),
    ]
    leaves = ("cell.kernel", "cell.recurrent_kernel", "cell.bias", "readout.kernel", "readout.bias")
    names = {"loss", "mse"}
    for norm in ("gradient_norm", "parameter_norm", "update_norm"):
        names |= {norm, *(f"{norm}.{leaf}" for leaf in leaves)}
    assert set(found[0]["metrics"]) == names
    assert all(len(values) == 2 for values in found[0]["metrics"].values())
    assert manifest.summary[0].metric == "validation mse"
    assert manifest.summary[0].values == found[-1]["metrics"]["mse"]


@pytest.mark.promise
def test_how_many_steps_a_dispatch_takes_changes_no_bit(whole, tmp_path, seen):
    seen("bits", "other cuts with the same bits", 1)
    other = train(steps_per_dispatch=1, checkpoint_every=None)
    go(tmp_path / "r", train=other)
    assert records(tmp_path / "r") == records(whole)
    assert same_bits(
        states(tmp_path / "r", experiment()).states, states(whole, experiment()).states
    )


@pytest.mark.promise
def test_how_often_is_looked_changes_no_bit_of_what_is_learnt(whole, tmp_path, seen):
    """Not even the metrics at the steps where both look."""
    go(tmp_path / "r", train=train(log_every=4, evaluate_every=6, checkpoint_every=5))
    found, wanted = (states(run, experiment()).states for run in (tmp_path / "r", whole))
    assert same_bits(*([state._replace(sums={}) for state in each] for each in (found, wanted)))
    scores = {(r["step"], r["split"]): r for r in records(tmp_path / "r")}
    for record in records(whole):
        if record["split"] == "validation":
            assert scores[record["step"], "validation"] == record
    seen("bits", "other intervals with the same bits", 1)


@pytest.mark.promise
def test_a_seed_does_not_depend_on_the_seeds_beside_it(whole, tmp_path, seen):
    seen("bits", "seeds alone with the bits of two", 2)
    go(tmp_path / "alone", seeds=(1,), train=train(mesh=config.Mesh()))
    for one, both in zip(records(tmp_path / "alone"), records(whole), strict=True):
        for name, values in one["metrics"].items():
            assert values == [both["metrics"][name][1]]
    both = states(whole, experiment()).states
    assert same_bits(both[1], states(tmp_path / "alone", experiment(seeds=(1,))).states[0])
    assert not same_bits(both[0].params, both[1].params)


def test_one_seed_alone_is_spread_and_goes_on_over_other_devices(whole, tmp_path, monkeypatch):
    folder = tmp_path / "alone"
    interrupt_at(12, monkeypatch)
    manifest = go(folder, seeds=(1,))
    assert (manifest.state, manifest.device) == ("interrupted", "cpu x 2")
    monkeypatch.undo()
    monkeypatch.setattr(training.mesh, "resolve", lambda wanted, seeds: config.Mesh())
    assert training.resume(folder, quiet=True).state == "finished"
    for one, both in zip(records(folder), records(whole), strict=True):
        for name, values in one["metrics"].items():
            assert values == pytest.approx([both["metrics"][name][1]], rel=1e-3), name


def test_where_an_evaluation_stops_the_last_seed_nothing_is_recorded_twice(tmp_path):
    goal = config.Goal(below=1e9)  # reached at the first evaluation, at a multiple of log_every
    made = train(stop=config.Reached(), log_every=4, evaluate_every=8)
    assert go(tmp_path / "r", train=made, goal=goal).state == "finished"
    found = [(record["step"], record["split"]) for record in records(tmp_path / "r")]
    assert sorted(found) == [(4, "train"), (8, "stop"), (8, "train"), (8, "validation")]


@pytest.mark.parametrize(
    ("wanted", "rows", "seeds", "count"),
    [("auto", 8, 1, 2), ("auto", 1, 1, 1), ("auto", 8, 2, 1), (1, 8, 1, 1), (2, 1, 3, 2)],
)
def test_devices_are_taken_as_the_config_says(wanted, rows, seeds, count):
    wanted = wanted if wanted == "auto" else config.Mesh(data=wanted)
    given = train(mesh=wanted, batch_size=rows)
    assert training.mesh.resolve(given, seeds) == config.Mesh(data=count)
    assert training.mesh.may_spread(given, seeds) == (count > 1)


def test_a_cpu_does_not_count_as_any_number_of_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(training.mesh, "ask_for_devices", asked.append)
    training.mesh.ask_for_devices_of([experiment(train=train(mesh=config.Mesh(data=3000)))])
    assert asked == [training.mesh.MOST]


def test_more_devices_than_there_are_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"^train.mesh: expected data × hidden = 3 × 1 <= 2, the"):
        go(tmp_path / "r", train=train(mesh=config.Mesh(data=3)))
    assert not (tmp_path / "r").exists()


# Where one program computes several seeds it rounds otherwise than the program of one: the same
# bits are promised of threads alone.
def test_vmap_and_threads_agree_to_rounding(whole, tmp_path):
    go(tmp_path / "r", train=train(seeds_by="vmap"))
    for one, other in zip(records(tmp_path / "r"), records(whole), strict=True):
        for name, values in one["metrics"].items():
            assert values == pytest.approx(other["metrics"][name], rel=1e-3), name


def test_an_interrupted_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    interrupt_at(12, monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    assert go(folder).state == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    assert runs.read_manifest(folder).state == "interrupted"
    monkeypatch.undo()
    assert training.resume(folder, quiet=True).state == "finished"
    assert records(folder) == records(whole)
    assert same_bits(states(folder, experiment()).states, states(whole, experiment()).states)


def test_a_killed_run_goes_on_from_its_last_checkpoint_bit_for_bit(whole, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    append = runs.append

    def killed(folder, name, record):
        append(folder, name, record)
        if record["step"] == 16:
            with (folder / name).open("ab") as file:
                file.write(b'{"step": 17, "sp')
            raise SystemExit("killed")

    monkeypatch.setattr(runs, "append", killed)
    with pytest.raises(SystemExit, match="killed"):
        go(folder)
    monkeypatch.undo()
    assert runs.read_manifest(folder).state == "running"
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "000000007",
        "000000014",
    ]
    assert training.resume(folder, quiet=True).state == "finished"
    assert records(folder) == records(whole)
    assert same_bits(states(folder, experiment()).states, states(whole, experiment()).states)


def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "r")
    for path in (folder / "checkpoints" / "000000024").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    runs.update_manifest(folder, state="interrupted")
    found = states(folder, experiment())
    assert [path.name for path in found.skipped] == ["000000024"]
    assert int(found.states[0].step) == 21
    assert training.resume(folder).state == "finished"
    assert "000000024 cannot be read" in capsys.readouterr().out.replace("\n", "")
    assert records(folder) == records(whole)


def test_scores_that_were_lost_at_the_end_are_there_again(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "r")
    runs.update_manifest(folder, state="interrupted", summary=[])
    (folder / "metrics.jsonl").unlink()
    assert training.resume(folder, quiet=True).summary == runs.read_manifest(whole).summary


def test_a_checkpoint_of_another_network_is_refused(whole):
    with pytest.raises(UserError, match="can be read for this config"):
        states(whole, experiment(model=config.LSTM(hidden_size=6)))


def test_a_finished_run_is_left_as_it_is(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert training.resume(whole, quiet=True).state == "finished"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_numbers_that_stop_being_finite_end_the_run(tmp_path):
    diverging = experiment(
        seeds=(5,),
        model=config.RNN(hidden_size=5, activation="identity"),
        optimizer=config.SGD(learning_rate=1e12),
    )
    manifest = training.run(training.prepare(diverging), tmp_path / "r", quiet=True)
    assert manifest.state == "failed"
    assert "not finite at step" in manifest.reason
    assert "of seed 5" in manifest.reason
    # What was saved before it happened is still good.
    found = checkpoints.latest(tmp_path / "r", training.prepare(diverging).shapes())
    assert found is None or all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.states[0].params)
    )


def test_off_the_main_thread_a_training_runs_without_signals(tmp_path):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(go(tmp_path / "r", seeds=1).state))
    thread.start()
    thread.join()
    assert ended == ["finished"]


def test_a_short_training_learns_to_add(tmp_path):
    made = experiment(
        seeds=2,
        task=config.Adding(length=10),
        model=config.LSTM(hidden_size=32),
        optimizer=config.Adam(
            learning_rate=1e-2, clip_norm=1.0, schedule=config.Cosine(warmup_steps=50)
        ),
        train=config.Train(steps=1000, batch_size=64, evaluate_every=500),
    )
    manifest = training.run(training.prepare(made), tmp_path / "r", quiet=True)
    # Without memory nothing beats 1/6; solved is .01.
    assert manifest.summary[0].verdict == "met"
    assert max(manifest.summary[0].values) < 0.01


def test_a_finished_run_goes_on_with_more_steps_as_one_that_had_them_from_the_beginning(
    whole, tmp_path
):
    """Its end at 19 falls between all that is due; what it wrote down there stays."""
    folder = tmp_path / "run"
    assert go(folder, train=train(steps=19)).state == "finished"
    more = [("train.steps", "24")]
    assert training.resume(folder, quiet=True, overrides=more).state == "finished"
    assert same_bits(states(folder, experiment()).states, states(whole, experiment()).states)
    assert [r for r in records(folder) if r["step"] != 19] == records(whole)
    assert runs.read_manifest(folder).summary == runs.read_manifest(whole).summary
    assert config.load(folder / "config.toml") == experiment()
    before = runs.read_manifest(folder)
    assert training.resume(folder, quiet=True, overrides=more) == before


def test_a_run_in_half_precision_learns_and_goes_on_bit_for_bit(tmp_path):
    changes = {"model": config.LSTM(hidden_size=16, dtype="bfloat16"), "seeds": 1}
    for name, steps in (("whole", 400), ("part", 399)):
        often = dict.fromkeys(("log_every", "evaluate_every", "checkpoint_every"), 200)
        changes["train"] = train(steps=steps, batch_size=16, steps_per_dispatch=100, **often)
        assert go(tmp_path / name, **changes).state == "finished"
    training.resume(tmp_path / "part", quiet=True, overrides=[("train.steps", "400")])
    made = experiment(**changes)
    one, other = (states(tmp_path / name, made).states for name in ("whole", "part"))
    assert same_bits(one, other)
    assert runs.read_manifest(tmp_path / "whole").summary[0].mean < 0.1  # 0.17 without learning


def test_a_run_does_not_go_on_with_a_config_that_was_changed(tmp_path):
    folder = tmp_path / "run"
    made = training.prepare(experiment())
    training.loop._create(folder, made, made.states(), config.Mesh())
    path = folder / "config.toml"
    text = path.read_text()
    path.write_text(text.replace("learning_rate = 0.01", "learning_rate = 0.02"))
    with pytest.raises(UserError, match=r"run/config.toml' was changed since the run began"):
        training.resume(folder, quiet=True)
    path.write_text(f"# a word of mine\n{text}")
    assert training.resume(folder, quiet=True).state == "finished"


@pytest.mark.parametrize(
    ("changes", "steps", "said"),
    [
        ({}, "23", "train.steps: expected at least 24 of this run, got 23"),
        (
            {"optimizer": config.Adam(learning_rate=1e-2, schedule=config.Cosine())},
            "30",
            "train.steps: expected 24 of this run, whose learning rate falls until there, got 30",
        ),
    ],
)
def test_steps_that_would_change_what_is_done_are_refused(tmp_path, changes, steps, said):
    folder = tmp_path / "run"
    made = training.prepare(experiment(**changes))
    training.loop._create(folder, made, made.states(), config.Mesh())
    with pytest.raises(UserError) as caught:
        training.resume(folder, quiet=True, overrides=[("train.steps", steps)])
    assert str(caught.value) == said
    assert config.load(folder / "config.toml") == experiment(**changes)
