"""Counterfactual replay: apply other corrections to the batches that a run recorded.

From the token records alone: loss, ratios, weights, what is removed, and its overlap between methods.
With the policy from before the step (`records.replay: true`) also gradients. At the run's own
settings a replay equals what was logged, and says so. Importing this imports no torch.

    from alpkit.replay import replay
    replay("runs/quickstart/096941a33b", ["grpo", "token-tis", "seq-mis"]).methods
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.config import RunConfig
from alpkit.replay.book import Book, Replay, Row
from alpkit.replay.inputs import find_cell, given_policy, kept_policies, recorded_steps_of
from alpkit.replay.methods import methods_of
from alpkit.replay.report import Written, as_json, pooled, write
from alpkit.runs.steps import read_steps

if TYPE_CHECKING:
    from alpkit.replay.losses import Outcome

__all__ = ["Replay", "Written", "as_json", "pooled", "replay", "write"]

# Both sides add the same float32 numbers, on another machine in another order.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


def replay(
    run_id: str,
    methods: Sequence[str],
    *,
    steps: Sequence[int] | None = None,
    gradients: bool | None = None,
    policy: Path | str | None = None,
    tokens: bool = False,
    root: Path | str = Path("."),
) -> Replay:
    """Replay recorded steps of one cell under its own correction and under `methods`.

    `methods`: preset names or YAML files; `steps`: default all recorded; `gradients`: None where the
    policy was recorded, True demands it, False spares it; `policy`: a model with the weights from before
    the one step, for a run that kept none; `tokens`: keep every token's numbers.
    Raises `ConfigError` for a method that cannot be replayed, `GridError` for a run id that names no
    single cell, `TrackingError` for what the run did not record.
    """
    cell = find_cell(str(run_id), Path(root))
    compared = methods_of(methods, cell.config, cell.imported)
    chosen = recorded_steps_of(cell.folder, steps)
    if policy is None:
        policies = kept_policies(cell.folder, chosen, gradients, every=steps is not None)
    else:
        policies = {given_policy(cell, chosen): Path(policy)}
    # torch and transformers, only once the input is known to make sense.
    from alpkit.replay.batches import read_step
    from alpkit.replay.losses import overlaps, replay_method, row_of, token_rows

    book = Book(cell, compared)
    metrics = dict(read_steps(cell.folder))
    for step in chosen:
        recorded = read_step(cell.folder, step, cell.config, cell.imported)
        signed = recorded.has_advantage
        usable = book.replayable(step, recorded.logps, signed=signed)
        outcomes = [replay_method(method, recorded) for method in usable]
        book.rows["methods"] += [row_of(outcome, recorded) for outcome in outcomes]
        book.rows["overlap"] += overlaps(outcomes, step, signed=signed)
        book.rows["logged"] += _compared(outcomes, metrics.get(step, {}), step, cell.config)
        if tokens:
            book.tokens.append(token_rows(outcomes, recorded))
        if step in policies:
            from alpkit.replay.gradients import gradients as gradients_of
            from alpkit.replay.policy import load_given, load_replayed

            load = load_replayed if policy is None else load_given
            before = load(policies[step], cell.config, step)
            rows = gradients_of(recorded, book.differentiable(recorded.logps), before)
            book.rows["gradients"] += rows.gradients
            book.rows["cosines"] += rows.cosines
            book.note_gaps(rows.gaps)
    if not policies and gradients is None:
        book.note(
            "no gradients: the run kept no policy of these steps (records.replay: true does; "
            "--policy gives one)"
        )
    return book.to_replay(tokens=tokens)


def _compared(
    outcomes: Sequence["Outcome"],
    logged: dict[str, float | None],
    step: int,
    config: RunConfig,
) -> list[Row]:
    """Compare receipt and loss of the run's own method with those that the trainer logged."""
    of_run = next((outcome for outcome in outcomes if outcome.method.own), None)
    if of_run is None:
        return []
    replayed = {"train/loss": of_run.loss, **of_run.receipt}
    if config.objective.reference_kl.coef > 0 or config.objective.entropy_bonus > 0:
        del replayed["train/loss"]  # the logged one holds what a method of a replay leaves out
    return [
        {
            "step": step,
            "metric": metric,
            "logged": number,
            "replayed": value,
            "equal": abs(value - number) <= _ABSOLUTE + _RELATIVE * abs(number),
        }
        for metric, value in replayed.items()
        if (number := logged.get(metric)) is not None
    ]
