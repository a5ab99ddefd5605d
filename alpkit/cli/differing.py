"""`alpkit diff`: the fields in which two resolved configurations differ."""

import json

from alpkit.cli.layout import plain
from alpkit.cli.output import note, print_json, print_table
from alpkit.config.grid.comparisons import differing
from alpkit.config.identity import APART
from alpkit.runs.resolved import one


def diff(first: str, second: str, *, as_json: bool) -> None:
    """Print every dotted field with another value, and whether the two are one cell."""
    a, b = one(first), one(second)
    found = differing(a.config.model_dump(mode="json"), b.config.model_dump(mode="json"))
    if a.of_an_arm or b.of_an_arm:
        # An arm has a cell of every seed, so that the seed of one says nothing.
        found.pop("seed", None)
    if as_json:
        sides = [{"name": side.label, "cell_id": side.cell_id} for side in (a, b)]
        print_json({"a": sides[0], "b": sides[1], "differences": found})
        return
    if found:
        rows = [[field, _text(ours), _text(theirs)] for field, (ours, theirs) in found.items()]
        print_table(plain(["config", a.label, b.label], rows))
    apart = [field for field in found if field.split(".")[0] in APART]
    if not found:
        note("the two have the same configuration")
    elif len(apart) == len(found):
        note(f"{_fields(len(found))}, and no number changes by it: they are one cell")
    else:
        note(f"{_fields(len(found))}; numbers change by {len(found) - len(apart)} of them")


def _fields(count: int) -> str:
    return "1 field differs" if count == 1 else f"{count} fields differ"


def _text(value: object) -> str:
    """Write a value as YAML would."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)
