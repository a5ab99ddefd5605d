"""Prove that pushed weights arrive: compare the sampler's movements with the trainer's, tensor by tensor.

Every parameter is shaken and pushed. Where an engine can show its weights they are compared; where it
cannot, its log-probs tell. Suppose that tensor k stayed what it was: the trainer, with k put back, says
by which vector d_k the sampler must then fall short, so that d_k can be looked for in what it does fall
short by. An engine's own error differs from any d_k, however large it is: precision raises no alarm. Where it
happens to look like one, as in one start of some thousands, a second shake tells: what did not arrive is
missing again.
What an error hides is shaken harder, and named if it stays hidden. Trainer and d_k are float32.

    unseen = prove_by_movement(sampler, model, trainer, scorer, seed=0)
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor, nn
from transformers import PreTrainedModel

from alpkit.errors import RolloutError
from alpkit.rollout import Sampler
from alpkit.rollout.same_layers import SameLayers
from alpkit.seeds import derive

Scores = Callable[[], np.ndarray]

# Noise on every parameter, relative to its rms: little at first, since a deep model shaken hard is
# chaotic in low precision, and more for what stayed hidden.
SHAKES: Final = (0.1, 0.5, 2.0)
_SIZE_OF_ZERO: Final = 1.0  # taken for the rms of an all-zero tensor (a fresh bias)
# A tensor is missing when more than half of d_k is, and seen when an error as large as what d_k leaves
# unexplained would look like half of d_k with no more than this chance (t test over the probe's tokens).
_MISSING: Final = 0.5
_CHANCE: Final = 1e-10
_SMALLEST_ERROR: Final = 1e-7
_FEWEST_TOKENS: Final = 6
_TIED_HEAD: Final = "the LM head's copy of"


@dataclass(frozen=True)
class Suspect:
    """Tensors that may have stayed what they were; `head_only`: the tied LM head, not the embedding."""

    label: str
    names: tuple[str, ...]
    head_only: bool = False


def prove_by_weights(sampler: Sampler, model: PreTrainedModel, seed: int) -> bool:
    """Push shaken weights, then the real ones, and compare what the engine holds; False: it cannot show it.

    `RolloutError` names what did not arrive. The real weights are in the sampler afterwards.
    """
    if sampler.stale(()) is None:
        return False
    with shaken(model, [name for name, _ in model.named_parameters()], SHAKES[0], seed):
        sampler.sync(model.named_parameters())
        stale = sampler.stale(model.named_parameters())
    sampler.sync(model.named_parameters())
    if missing := stale or sampler.stale(model.named_parameters()):
        raise _did_not_arrive(missing, "the engine's weights are not those that were pushed")
    return True


@torch.no_grad()
def prove_by_movement(
    sampler: Sampler, model: PreTrainedModel, trainer: Scores, scorer: Scores, seed: int
) -> list[str]:
    """Push shaken weights and compare how trainer and sampler moved; gives what the probe cannot see.

    `trainer` and `scorer` score the same tokens (nats) under the model's and the sampler's weights now.
    `RolloutError` names what did not arrive. The real weights are in the sampler afterwards.
    """
    start = scorer() - trainer()
    unseen = [name for name, _ in model.named_parameters()]
    try:
        for shake in SHAKES:
            now, looked_at = trainer(), unseen
            for again in (seed, derive(seed, "again")):
                with shaken(model, looked_at, shake, again) as saved:
                    sampler.sync(model.named_parameters())
                    known = SameLayers(model, trainer)
                    short = scorer() - known.scores - start
                    unseen, missing = _judge(model, saved, now, known, short, trainer)
                if missing is None:
                    break
            if missing is not None:
                raise missing
            if not unseen:
                break
    finally:
        sampler.sync(model.named_parameters())
    return unseen


def _judge(
    model: PreTrainedModel,
    saved: dict[str, Tensor],
    now: np.ndarray,
    known: SameLayers,
    short: np.ndarray,
    trainer: Scores,
) -> tuple[list[str], RolloutError | None]:
    """Judge every suspect in `short`: which tensors cannot be seen, and what did not arrive, if anything."""
    unseen, guilty = set(), []
    own, moved = dict(model.named_parameters()), known.scores
    for suspect in suspects(model, list(saved)):
        if len(suspect.names) == len(saved) and not suspect.head_only:
            effect = moved - now
        else:
            parameters = [own[name] for name in suspect.names]
            same = known.before(parameters, head_only=suspect.head_only)
            with _put_back(model, suspect, saved), known.skipping(same):
                effect = moved - trainer()
        share, error, seen = _share_missing(effect, short)
        if not seen and len(suspect.names) == 1:
            unseen.add(suspect.names[0])
        if seen and share > _MISSING:
            guilty.append((error, share, suspect))
    missing = None
    if guilty:
        _, share, suspect = min(guilty, key=lambda one: one[0])
        why = (
            f"the sampler moved by {share:.0%} of it too little, which is "
            f"{_rms(short):.3g} nats per token where the push moves the trainer by {_rms(moved - now):.3g}"
        )
        missing = _did_not_arrive([suspect.label], why)
    return [name for name in saved if name in unseen], missing


def suspects(model: PreTrainedModel, names: Sequence[str]) -> list[Suspect]:
    """List the suspects: each tensor, each layer, each kind of tensor, all; a tied LM head apart from its embedding."""
    found = [Suspect(name, (name,)) for name in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        if place := re.search(r"\.(\d+)\.(.+)", name):
            groups.setdefault(f"layer {place[1]}", []).append(name)
            groups.setdefault(f"every {place[2]}", []).append(name)
    found += [Suspect(label, tuple(group)) for label, group in groups.items() if len(group) > 1]
    if len(names) > 1:
        found.append(Suspect("the whole push", tuple(names)))
    if (tied := _tied(model)) in names and tied is not None:
        found.append(Suspect(f"{_TIED_HEAD} {tied}", (tied,), head_only=True))
    return found


def _share_missing(effect: np.ndarray, short: np.ndarray) -> tuple[float, float, bool]:
    """Estimate how much of `effect` the sampler's movement lacks, the remaining error, and whether that is small.

    Least squares of -short on effect.
    """
    finite = np.isfinite(effect) & np.isfinite(short)
    if finite.sum() < _FEWEST_TOKENS:
        return 0.0, math.inf, False
    effect, short = effect[finite], short[finite]
    size = float(np.linalg.norm(effect))
    if size == 0:
        return 0.0, math.inf, False
    share = -float(short @ effect) / size**2
    left = short + share * effect
    error = max(float(np.linalg.norm(left)) / math.sqrt(len(left) - 1), _SMALLEST_ERROR)
    return share, error, size * _MISSING >= float(t.isf(_CHANCE, len(left) - 1)) * error


@contextmanager
def shaken(
    model: PreTrainedModel, names: Iterable[str], shake: float, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Shake the named parameters inside the block, by Gaussian noise of `shake` times their rms; yields the real ones.

    Afterwards the model is bit for bit itself.
    """
    wanted = set(names)
    own = {name: value.data for name, value in model.named_parameters() if name in wanted}
    saved = {name: value.clone() for name, value in own.items()}
    for name, value in own.items():
        generator = torch.Generator().manual_seed(derive(seed, "shake", name))
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        rms = float(value.float().pow(2).mean().sqrt()) or _SIZE_OF_ZERO
        value.add_(shake * rms * noise.to(value))
    try:
        yield saved
    finally:
        for name, value in own.items():
            value.copy_(saved[name])


@contextmanager
def _put_back(model: PreTrainedModel, suspect: Suspect, saved: dict[str, Tensor]) -> Iterator[None]:
    """Put the suspect's tensors back, inside the block, to what they were before the shaking."""
    if suspect.head_only:
        head = model.get_output_embeddings()
        tied = head.weight
        head.weight = nn.Parameter(saved[suspect.names[0]], requires_grad=False)
        try:
            yield
        finally:
            head.weight = tied
        return
    own = dict(model.named_parameters())
    pushed = {name: own[name].detach().clone() for name in suspect.names}
    for name in suspect.names:
        own[name].data.copy_(saved[name])
    try:
        yield
    finally:
        for name, value in pushed.items():
            own[name].data.copy_(value)


def _tied(model: PreTrainedModel) -> str | None:
    """Name the parameter that LM head and embedding share, if they do."""
    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return None
    names: list[str] = [name for name, value in model.named_parameters() if value is head.weight]
    return names[0]


def _did_not_arrive(names: Sequence[str], why: str) -> RolloutError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return RolloutError(
        f"weights pushed to the sampler did not all arrive: {names[0]}{more}",
        why=f"{why}; a stale tensor (for example a tied LM head that was packed once) fakes "
        "importance ratios",
        fix="check the engine's weight sync before trusting any ratio",
    )


def _rms(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else math.nan
