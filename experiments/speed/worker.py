"""One engine in a process of its own: answers on its output, in JSON, what is asked on its input.

A request is `{"do": "prepare" | "time" | "stream", …}`, one on a line.
"""

import json
import os
import sys
import time
import warnings

import numpy as np
from cases import CASES

LEAST = 0.15
"""Seconds that a burst of calls takes at least."""


def answer(engine, request, engines, cases):
    """Do what is asked; a new engine, or the one there is, and what to say."""
    what = request["do"]
    if what == "prepare":
        engine = engines[request["engine"]](cases[request["case"]])
        seconds, memory = engine.compile()
        np.savez(request["file"], *engine.results())
        return engine, {"compile": seconds, "memory": memory}
    call = engine.stepper() if what == "stream" else getattr(engine, request["call"])
    call()
    if what == "stream":
        for _ in range(200):
            call()
    return engine, burst(call)


def burst(call):
    """Mean seconds of as many calls as take `LEAST`, and how many they were."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < LEAST:
        call()
        count += 1
    return {"seconds": (time.perf_counter() - begin) / count, "calls": count}


def main(name, engines, cases):
    """Serve one engine until the input ends."""
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the frameworks print goes elsewhere
    engine = None
    with engines[name].context():
        for line in sys.stdin:
            try:
                engine, found = answer(engine, json.loads(line), engines, cases)
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    from frameworks import ENGINES

    main(sys.argv[1], ENGINES, CASES)
