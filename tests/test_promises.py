"""The table of promises is that of its results, and names tests that are there."""

import json
from pathlib import Path

import promises

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_promises_is_made_from_its_results_and_has_no_hole():
    known = json.loads((DOCS / "promises.json").read_text(encoding="utf-8"))
    assert (DOCS / "promises.md").read_text(encoding="utf-8") == promises.render(known)
    assert list(known) == list(promises.PROMISES)
    for tests in known.values():
        for test in tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (DOCS.parent / "tests" / file).read_text(encoding="utf-8")
