"""Measure what batching alone does to the trainer's log-probs: the same tokens alone, and eight rows at a time.

Kernels sum in another order for another shape, so that a token's log-prob depends on what it is batched
with, at equal weights (trl#6789: in bfloat16 8 % of the ratios left [0.9, 1.1] for this reason alone).
Ratios within this floor are no policy's doing.
"""

import numpy as np
import torch
from torch import Tensor

from alpkit.policy.logprobs import response_logprobs
from alpkit.runs.batching import Batching
from alpkit.trainer.batches import Batch, MicroBatch, cut_rows
from alpkit.trainer.state import TrainerState

TOGETHER = 8
"""Responses of one forward, where the budget of a forward has room for them."""
BAND = (0.9, 1.1)


def measure_batching(state: TrainerState, batch: Batch) -> Batching:
    """Score the batch's first responses alone and together, with the weights of now; no noise, no gradient."""
    few = min(state.config.diagnostics.batching_floor, len(batch.rollout))
    groups = [list(range(few))[first : first + TOGETHER] for first in range(0, few, TOGETHER)]
    together = _logps(state, batch, groups)
    alone = _logps(state, batch, [[row] for row in range(few)])
    chosen = batch.valid[:few].cpu()
    difference = (alone - together)[chosen].numpy()
    sample = np.repeat(np.arange(few), chosen.sum(dim=1).numpy())
    finite = np.isfinite(difference)
    return Batching(sample[finite], difference[finite])


def floor_metrics(measured: Batching) -> dict[str, float]:
    """Make batching/*; nothing without a token."""
    difference = measured.difference
    if not len(difference):
        return {}
    size, ratio = np.abs(difference), np.exp(difference)
    return {
        "batching/std": float(difference.std()),
        "batching/p95": float(np.quantile(size, 0.95)),
        "batching/max": float(size.max()),
        "batching/outside_band": float(((ratio < BAND[0]) | (ratio > BAND[1])).mean()),
    }


@torch.no_grad()
def _logps(state: TrainerState, batch: Batch, groups: list[list[int]]) -> Tensor:
    """Score the rows of each group in one forward, or as few as fit; [rows, len] on the host, in order."""
    budget = state.config.hardware.micro_batch_tokens
    micros = cut_rows(batch, groups, tokens=budget, padded=state.packing is None)
    rows = sum(len(group) for group in groups)
    values = torch.full((rows, batch.rollout.tokens.shape[1]), torch.nan, dtype=torch.float64)
    for micro in (micro for group in micros for micro in group):
        _, columns = batch.rollout.rows(micro.sample)
        values[micro.sample, columns] = _logp(state, micro).double().cpu()
    return values


def _logp(state: TrainerState, micro: MicroBatch) -> Tensor:
    with state.precision.autocast(state.device):
        return response_logprobs(
            state.policy.model,
            micro.rollout.tokens,
            micro.rollout.attention,
            micro.rollout.response,
            temperature=state.config.rollout.temperature,
            chunk=state.config.hardware.head_chunk,
            head_float32=state.precision.head_float32,
            packing=state.packing,
        ).logp
