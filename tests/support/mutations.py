"""Files as accidents and enemies leave them: cut, overwritten, of other types."""

import json
import random

_VALUES = (
    "null",
    "true",
    "[]",
    "{}",
    "-1",
    "1e400",
    "0x" + "f" * 5000,
    "9" * 5000,
    '"',
    "..",
    "\x00",
)
_ODD = (None, True, -1, 1e308, 10**30, "..", "a/b", "", [], [[]], {}, {"a": []}, "x" * 3000)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three things done to a file."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice((_cut, _overwrite, _insert, _repeat, _remove, _revalue, _retype))(
            data, rng
        )
    return data


def _cut(data, rng):
    return data[: rng.randint(0, len(data))]


def _overwrite(data, rng):
    out = bytearray(data)
    for _ in range(rng.randint(1, 20)):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _insert(data, rng):
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 30)) + data[at:]


def _repeat(data, rng):
    at = rng.randint(0, len(data))
    return data[:at] + data[at : at + 200] * rng.randint(2, 50) + data[at:]


def _remove(data, rng):
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def _revalue(data, rng):
    """Something else behind one of the colons or commas."""
    places = [i for i, byte in enumerate(data) if byte in b":,["]
    if not places:
        return data
    at = rng.choice(places) + 1
    value = rng.choice(_VALUES).encode()
    return data[:at] + b" " + value + data[at + rng.randint(0, 12) :]


def _retype(data, rng):
    """One value of a JSON file, or of one of its lines, of another type; other files as they are."""
    lines = data.split(b"\n")
    whole = _json(data)
    if whole is not None:
        return json.dumps(_changed(whole, rng)).encode()
    at = rng.randrange(len(lines))
    line = _json(lines[at])
    if line is not None:
        lines[at] = json.dumps(_changed(line, rng)).encode()
    return b"\n".join(lines)


def _json(data):
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def _changed(value, rng):
    key = rng.choice(sorted(value))
    below = value[key]
    if isinstance(below, list) and below and isinstance(below[0], dict) and rng.random() < 0.7:
        at = rng.randrange(len(below))
        return value | {key: [*below[:at], _changed(below[at] or {"a": 1}, rng), *below[at + 1 :]]}
    if rng.random() < 0.3:
        return {k: v for k, v in value.items() if k != key}
    return value | {key: rng.choice(_ODD)}
