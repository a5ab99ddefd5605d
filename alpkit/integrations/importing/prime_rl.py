"""Read prime-rl's token export: `token_exports/step_<n>/rank_<r>.jsonl`, a line per trained sequence.

A line has lists of one length: `token_ids`, `loss_mask` (trained on), `inference_logprobs` (log mu),
`trainer_logprobs` (log pi_theta), `entropy`, `advantages`, `rewards`, `is_masked` (taken out by the loss);
null where a number was not finite or not made. A log-prob stands at the token that it is of. The trainer
computes no pi_old. Written from the exporter of prime-rl (schema_version 1, `trainer.enable_token_export`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from alpkit.integrations.foreign_run import ForeignResponse
from alpkit.integrations.importing.dump import (
    Cell,
    Line,
    integers,
    json_lines,
    listed,
    mask,
    numbers,
    refuse,
    response,
    whole,
)

_SCHEMA: Final = 1
_NAMES: Final = {
    "logp_rollout": "inference_logprobs",
    "logp_train": "trainer_logprobs",
    "entropy": "entropy",
    "advantage": "advantages",
}
_REQUIRED: Final = ("token_ids", "loss_mask", "inference_logprobs", "trainer_logprobs")
_STABLE: Final = "STABLE"


def looks_like(source: Path) -> bool:
    """Whether a folder holds a token export."""
    return source.is_dir() and bool(_step_folders(source))


class PrimeRlDump:
    """A token export: the folder `token_exports`, or the one above it."""

    trainer = "prime-rl"
    # One optimizer step per step: all of its sequences are one mini-batch.
    knows_updates = True

    def __init__(self, source: Path) -> None:
        self.place = str(source)
        self._folders = _step_folders(source)
        if not self._folders:
            raise refuse(
                self.place,
                "no token export of prime-rl",
                "it has no step_<n>/rank_<r>.jsonl",
                "name the folder token_exports of a run with trainer.enable_token_export",
            )
        marked = [folder for folder in self._folders if (folder / _STABLE).exists()]
        open_steps = [folder for folder in self._folders if folder not in marked]
        if marked and open_steps:  # older exporters mark none
            raise refuse(
                str(open_steps[0]),
                "the exporter had not finished this step",
                f"it has no {_STABLE} file, as other steps do",
                "wait for it, or move the folder away and import the others",
            )

    def steps(self) -> Iterator[tuple[int, list[ForeignResponse]]]:
        """Read a step at a time, its ranks in ascending order."""
        for folder in self._folders:
            step = _number(folder.name)
            found = [
                made
                for path in sorted(folder.glob("rank_*.jsonl"), key=lambda p: _number(p.stem))
                for line in json_lines(path)
                if (made := _response(line, step)) is not None
            ]
            if found:
                yield step, found


def _step_folders(source: Path) -> list[Path]:
    inner = source / "token_exports"
    folder = inner if inner.is_dir() else source
    found = {path.parent for path in folder.glob("step_*/rank_*.jsonl")}
    return sorted((f for f in found if _number(f.name) >= 0), key=lambda f: _number(f.name))


def _number(name: str) -> int:
    """The number behind the last underscore; -1 where there is none."""
    digits = name.rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else -1


def _response(line: Line, step: int) -> ForeignResponse | None:
    """Make a response of a line; None where its RL loss trained on no token."""
    place, values = line
    _check(line, step)
    ids = integers(values["token_ids"], "token_ids", place)
    trained = _trained(line, len(ids))
    if not trained.any():
        return None
    first = int(np.flatnonzero(trained)[0])
    per_token = {
        ours: numbers(values[theirs], ours, place)
        for ours, theirs in _NAMES.items()
        if values.get(theirs) is not None
    }
    for name in ("logp_rollout", "logp_train", "entropy", "advantage"):
        column = per_token.get(name)
        if column is not None and len(column) != len(ids):
            raise _unequal(place, _NAMES[name], len(column), len(ids))
    if "advantage" in per_token and np.isnan(per_token["advantage"][trained]).any():
        del per_token["advantage"]
    masked = values.get("is_masked")
    if masked is not None and None not in (entries := listed(masked, "is_masked", place)):
        per_token["keep"] = ~mask(entries, "is_masked", place)
        if len(per_token["keep"]) != len(ids):
            raise _unequal(place, "is_masked", len(per_token["keep"]), len(ids))
    return response(
        place,
        ids=ids[first:],
        sampled=trained[first:],
        per_token={name: column[first:] for name, column in per_token.items()},
        update=0,
        prompt=None,
        prompt_ids=ids[:first],
        reward=_reward(values.get("rewards"), trained, place),
    )


def _check(line: Line, step: int) -> None:
    place, values = line
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise refuse(
            place,
            f"no line of prime-rl's token export: it lacks {', '.join(missing)}",
            f"it has {', '.join(map(str, values)) or 'nothing'}",
            "name the folder token_exports, or say --from columns with --map",
        )
    if (version := values.get("schema_version", _SCHEMA)) != _SCHEMA:
        raise refuse(
            place,
            f"schema_version {version} of the token export is not known",
            f"this reader was written for version {_SCHEMA}",
            "say --from columns with --map, column by column",
        )
    said = values.get("export_step", values.get("step"))
    if said is not None and whole(said, "step", place) != step:
        raise refuse(
            place, f"the line is of step {said}", f"the folder is of step {step}", "move it there"
        )


def _trained(line: Line, length: int) -> np.ndarray:
    """Mark the tokens that the RL loss trained on; without channels these are all of `loss_mask`."""
    place, values = line
    trained = mask(values["loss_mask"], "loss_mask", place)
    if len(trained) != length:
        raise _unequal(place, "loss_mask", len(trained), length)
    losses = values.get("losses")
    if losses is None:
        return trained
    channels = listed(losses, "losses", place)
    if len(channels) != length:
        raise _unequal(place, "losses", len(channels), length)
    rl = [channel.get("rl") if isinstance(channel, dict) else None for channel in channels]
    own = np.array([isinstance(c, dict) and bool(c.get("mask")) for c in rl], dtype=bool)
    return np.asarray(trained & own)


def _reward(rewards: Cell, trained: np.ndarray, place: str) -> float | None:
    """The reward of a sequence, which the export repeats for every token; None where it has none."""
    if rewards is None:
        return None
    values = numbers(rewards, "rewards", place)
    if len(values) != len(trained):
        raise _unequal(place, "rewards", len(values), len(trained))
    known = values[trained][~np.isnan(values[trained])]
    return float(known[0]) if len(known) else None


def _unequal(place: str, name: str, length: int, ids: int) -> Exception:
    return refuse(
        place, f"{name} has {length} values for {ids} token_ids", "", "look at what cut the line"
    )
