"""Turn a recorded step into items of a tail: its tokens, or its responses, as log ratios with their prompts.

The ratio is `ratio/raw`: unperturbed pi_theta over mu, for every arm; `perturbed` has the noise on.
Tokens without both log-probs (non-finite in the sampler) are left out; a response is the rest of its
tokens.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from alpkit.analysis.reading.records import Batch
from alpkit.diagnostics import Level, reduce_to_level

COLUMNS: Final = (
    *("sample", "prompt", "turn"),
    *("logp_rollout", "logp_old", "logp_train", "logp_perturbed"),
)
LEVELS: Final[tuple[Level, ...]] = ("token", "geometric", "product")
TURN_LEVELS: Final[tuple[Level, ...]] = ("token", "product")
"""Levels at which turns are looked at apart: their tokens, and the product over a turn's tokens."""
ROUNDOFF: Final = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
"""Half a unit in the last place of a number between 1 and 2."""


class Items(NamedTuple):
    """One row per token or response of one recorded step, all seeds of an arm; log ratios in nats."""

    log_ratio: np.ndarray
    perturbed: np.ndarray
    """With the noise on; NaN for an arm without."""
    log_mu: np.ndarray
    """Of a response: the mean over its tokens, so that length does not order it."""
    rounding: np.ndarray
    """What rounding log mu twice could add, in units of the roundoff: see `unit_rounding`."""
    cluster: np.ndarray
    """Prompt, numbered from 0 within the step over its seeds."""
    clusters: int


class StepItems(NamedTuple):
    """A recorded step at every level, and the log-probs that `decompose` takes."""

    step: int
    levels: Mapping[str, Items]
    logps: Mapping[str, np.ndarray]
    response: np.ndarray
    """Each token's response, numbered from 0; tokens of a response stand together."""
    turns: Mapping[tuple[str, int], Items] = {}
    """Items of each level and turn; empty where every response is one turn."""


def step_items(batch: Batch) -> StepItems:
    """Make the items of a batch at every level, in an order in which a response's tokens are neighbours."""
    names = [name for name in COLUMNS if name.startswith("logp_")]
    logps = {name: batch.columns[name].astype(np.float64) for name in names}
    log_ratio = logps["logp_train"] - logps["logp_rollout"]
    keep = np.flatnonzero(np.isfinite(log_ratio))
    seed = np.unique(batch.seed, return_inverse=True)[1]
    response = _pairs(seed, batch.columns["sample"])[keep]
    if (np.diff(response) < 0).any():
        keep = keep[np.argsort(response, kind="stable")]
        response = np.sort(response, kind="stable")
    cluster = np.unique(_pairs(seed, batch.columns["prompt"])[keep], return_inverse=True)[1]
    logps = {name: values[keep] for name, values in logps.items()}
    log_mu = logps["logp_rollout"]
    tokens = Items(
        log_ratio[keep],
        logps["logp_perturbed"] - log_mu,
        log_mu,
        unit_rounding(log_mu, batch.step),
        cluster,
        int(cluster.max(initial=-1)) + 1,
    )
    _, first, numbered = np.unique(response, return_index=True, return_inverse=True)
    levels: dict[str, Items] = {
        level: _at_level(tokens, numbered, first, level) for level in LEVELS
    }
    turn = batch.columns["turn"][keep]
    return StepItems(batch.step, levels, logps, numbered, _by_turn(tokens, numbered, turn))


def unit_rounding(log_mu: np.ndarray, step: int) -> np.ndarray:
    """Simulate the log ratio of two equal policies with independently rounded log-probs, in units of the roundoff.

    Times `ROUNDOFF[dtype]` it is in nats: each error is uniform within half a unit in the last place of
    log mu. A floor: logits and activations in that dtype add more.
    """
    rng = np.random.default_rng([0x726F756E64, step])
    half_unit = np.ldexp(0.5, np.frexp(log_mu)[1])
    return np.asarray(half_unit * 2 * (rng.random(log_mu.size) - rng.random(log_mu.size)))


def _at_level(tokens: Items, response: np.ndarray, first: np.ndarray, level: Level) -> Items:
    """Reduce tokens to a level; `first` is each response's first token."""
    if level == "token":
        return tokens
    return Items(
        reduce_to_level(tokens.log_ratio, response, level),
        reduce_to_level(tokens.perturbed, response, level),
        reduce_to_level(tokens.log_mu, response, "geometric"),
        reduce_to_level(tokens.rounding, response, level),
        tokens.cluster[first],
        tokens.clusters,
    )


def _by_turn(tokens: Items, response: np.ndarray, turn: np.ndarray) -> dict[tuple[str, int], Items]:
    """Split a step's tokens by turn, and reduce each turn of a response to one item at the product level."""
    numbers = np.unique(turn)
    if len(numbers) < 2:
        return {}
    found: dict[tuple[str, int], Items] = {}
    for number in numbers.tolist():
        own = np.flatnonzero(turn == number)
        prompts, cluster = np.unique(tokens.cluster[own], return_inverse=True)
        part = Items(
            tokens.log_ratio[own],
            tokens.perturbed[own],
            tokens.log_mu[own],
            tokens.rounding[own],
            cluster,
            len(prompts),
        )
        _, first, renumbered = np.unique(response[own], return_index=True, return_inverse=True)
        found |= {
            (level, number): _at_level(part, renumbered, first, level) for level in TURN_LEVELS
        }
    return found


def _pairs(seed: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Make one integer per (seed, number)."""
    values = np.asarray(number, np.int64)
    return np.asarray(seed * (int(values.max(initial=0)) + 1) + values)
