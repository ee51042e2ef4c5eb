"""The benchmark's numbers as a page and a figure."""

import json
import math
import sys
from pathlib import Path

PEERS = ("scan", "keras", "flax", "haiku", "equinox")
CALLS = {"forward": "forward", "gradient": "forward + gradients of the weights"}


def median(row, engine, call):
    """Seconds, or None where there is no result."""
    found = row["engines"].get(engine, {})
    return found[call]["median"] if call in found else None


def best_peer(row, call):
    """The fastest of the other ways to run an LSTM on JAX."""
    return min(t for peer in PEERS if (t := median(row, peer, call)) is not None)


def geometric(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def milliseconds(found):
    if not found:
        return "–"
    return f"{1e3 * found['median']:.1f} ({1e3 * found['low']:.1f}–{1e3 * found['high']:.1f})"


def table(data, rows, call, floor=True):
    """Milliseconds by engine and case, and the floor."""
    names = [n for n in data["titles"] if any(n in row["engines"] for row in rows)]
    heads = [data["titles"][n] for n in names] + ["floor"] * floor
    yield "| B, T, I, H | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(heads)
    for row in rows:
        cells = [milliseconds(row["engines"].get(n, {}).get(call)) for n in names]
        least = row["flops"] * (3 if call == "gradient" else 1) / data["sgemm"]
        cells += [f"{1e3 * least:.1f}"] * floor
        yield f"| {row['case']} | " + " | ".join(cells) + " |"


def tables(data, groups, floor=True):
    """The tables of each call, one of each group of cases."""
    for call, words in CALLS.items():
        for rows in groups:
            if rows:
                yield from (f"{words[0].upper()}{words[1:]}:", "")
                yield from (*table(data, rows, call, floor), "")


def ratios(rows, call, engine):
    """How many times as fast an engine is as the best JAX peer, and as torch, by case."""
    for row in rows:
        mine, torch = median(row, engine, call), median(row, "torch", call)
        if mine is not None:
            yield row["case"], best_peer(row, call) / mine, torch and torch / mine


def summary(rows, engine):
    """The ratios of all cases and their geometric means over the six shapes."""
    main = [row for row in rows if row["case"][0].isdigit()]
    for call, words in CALLS.items():
        yield f"| {words} | times as fast as the best JAX peer | times as fast as torch |"
        yield "|---|---:|---:|"
        for case, *found in ratios(rows, call, engine):
            yield (
                f"| {case} | "
                + " | ".join(f"{ratio:.2f}" if ratio else "–" for ratio in found)
                + " |"
            )
        six = list(ratios(main, call, engine))
        known = (
            [found for found in column if found] for column in list(zip(*six, strict=True))[1:]
        )
        means = " | ".join(f"**{geometric(column):.2f}**" if column else "–" for column in known)
        yield f"| **geometric mean of the {len(six)} shapes** | {means} |"
        yield ""


def in_half(data):
    """Some of the shapes in bfloat16."""
    yield from ("## In bfloat16", "")
    yield "Parameters, states and outputs in bfloat16. The one JAX peer is the plain scan, whose"
    yield "gates are in bfloat16 too; torch's products use what the processor has for the type."
    yield ""
    yield from summary(data["half"], "jaxlstm")
    yield from ("Milliseconds:", "", *tables(data, [data["half"]], floor=False))


def compiled(data):
    """Compile times and temporary memory of the gradient."""
    names = [n for n in data["titles"] if n != "torch"]
    yield "| B, T, I, H | " + " | ".join(data["titles"][n] for n in names) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in data["rows"]:
        cells = []
        for name in names:
            found = row["engines"].get(name, {})
            known = found.get("compile") is not None and "error" not in found
            cells.append(
                f"{found['compile']:.1f} s, {found['memory'] / 2**20:.1f} MiB" if known else "–"
            )
        yield f"| {row['case']} | " + " | ".join(cells) + " |"


def trouble(data):
    """What went wrong or was disturbed."""
    for row in data["rows"] + data.get("half", []):
        for name, found in row["engines"].items():
            if "error" in found:
                yield f"- {row['case']}, {data['titles'][name]}: not timed: {found['error']}"
        if row["others"] > data["crowd"]:
            yield (
                f"- {row['case']}: something else used up to {row['others']:.0%} of the machine "
                "during a burst, after all tries"
            )


def figure(data, path):
    """Times against torch, by case and engine."""
    import matplotlib  # which a machine with a GPU may lack: its page has no figure

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    from jaxlstm.report.style import MATPLOTLIB

    rows = [row for row in data["rows"] if median(row, "torch", "gradient")]
    names = [n for n in data["titles"] if n != "torch"]
    if not rows:
        return
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    with plt.rc_context(MATPLOTLIB):
        drawn, axes = plt.subplots(2, 1, figsize=(9, 7.2), sharex=True)
        for axis, (call, words) in zip(axes, CALLS.items(), strict=True):
            for index, name in enumerate(names):
                points = [
                    (at, median(row, "torch", call) / median(row, name, call))
                    for at, row in enumerate(rows)
                    if median(row, name, call)
                ]
                ours = name == "jaxlstm"
                axis.plot(
                    [at + (index - len(names) / 2) * 0.09 for at, _ in points],
                    [ratio for _, ratio in points],
                    linestyle="",
                    marker="osD^vPX*"[index],
                    markersize=10 if ours else 6.5,
                    color=colours[index % len(colours)],
                    label=data["titles"][name],
                    zorder=4 if ours else 3,
                )
            axis.axhline(1, color="#1d1c1a", linewidth=1)
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            axis.set_title(f"Speed, {words}: torch is 1, higher is faster")
        axes[1].set_xticks(range(len(rows)), [row["case"].replace(",", ", ") for row in rows])
        axes[1].tick_params(axis="x", rotation=20)
        drawn.subplots_adjust(top=0.86)
        drawn.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="upper center", fontsize=9)
        drawn.savefig(path)


def write(folder: Path, data):
    """Write README.md and speed.svg from the numbers alone."""
    made = data["made"]
    main = [row for row in data["rows"] if row["case"][0].isdigit()]
    more = [row for row in data["rows"] if not row["case"][0].isdigit()]
    lines = [
        "# Speed",
        "",
        "An LSTM in float32, forward and with the gradients of its weights (of the sum of squares",
        "of all outputs), in milliseconds: median of the rounds, lowest and highest in brackets.",
        "`jaxlstm` is `jl.unroll` within `jl.spread()`, which gives each core its share of the",
        "batch; beside it the same call on a single device, as all the others on JAX are. Weights",
        "and batch are made within it, and so lie on all devices, as those of a training do.",
        "",
        "![Speed against torch by shape and engine](speed.svg)",
        "",
        "[Where the time of a gradient goes](parts.md), part by part, and what a compiled kernel",
        "could gain; [every cell by itself](cells.md); [whole trainings](training.md), end to",
        "end, against the same in torch; "
        + (
            "[on a GPU](gpu.md)." if (folder / "gpu.md").exists() else "on a GPU: not measured yet."
        ),
        "",
        "## Against the best JAX peer, and against torch",
        "",
        *summary(data["rows"], "jaxlstm"),
        "The same on a single device:",
        "",
        *summary(data["rows"], "jaxlstm-one"),
        "## Milliseconds",
        "",
    ]
    lines += [
        *tables(data, [main, more]),
        "The floor is the matrix products alone (three times those of a forward pass with the",
        f"gradients) at the rate of large products measured in the same run, "
        f"{data['sgemm'] / 1e9:.0f} GFLOP/s.",
        "",
        *(in_half(data) if data.get("half") else []),
        "## One step of one row, as in streaming (I = 32, H = 128), with the call from Python",
        "",
        "| engine | microseconds |",
        "|---|---:|",
        *(
            f"| {data['titles'][n]} | {1e6 * s['median']:.0f} "
            f"({1e6 * s['low']:.0f}–{1e6 * s['high']:.0f}) |"
            for n, s in data["step"].items()
        ),
        "",
        "## Compiling the gradient: time, and temporary memory of the program",
        "",
        *compiled(data),
        "",
        "Memory is what the compiled program states for one device. torch does not compile.",
        "",
    ]
    problems = list(trouble(data))
    lines += ["## Not timed, or disturbed", "", *problems, ""] if problems else []
    lines += [
        "## How it was measured",
        "",
        f"Command: `{made['command']}` (Python 3.11, where torch has a small build). Measured "
        f"{made['date']}, revision {made['revision']}, {data['rounds']} rounds, "
        f"{data['seconds'] / 60:.0f} minutes. Python {made['python']}, {made['packages']}. "
        f"{made['machine']}.",
        "",
        "Each engine runs in a process of its own with the same weights and batch. Outputs and",
        "gradients must equal those of the plain scan before anything is timed. The engines take",
        "turns, in an order that changes, and all other processes are stopped: the threads of",
        "torch spin while they wait, and torch itself becomes many times slower beside anything",
        "that runs. A burst of calls (at least 0.15 s) is repeated when anything else used a",
        "twentieth of the machine.",
        "",
    ]
    figure(data, folder / "speed.svg")
    (folder / "README.md").write_text("\n".join(lines))
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    folder = Path(__file__).parent
    write(folder, json.loads((folder / "data.json").read_text()))
