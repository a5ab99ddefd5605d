"""Find steps that stand out, and the tokens and responses that made them.

A spike is judged by the steps before it (`alpkit.diagnostics.SpikeDetector`). Which metrics are watched
is in `alpkit.metrics`, the file that keeps spikes in `alpkit.runs.spike_log`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from alpkit.diagnostics import Attribution, SpikeDetector, attribute, reduce_to_level
from alpkit.diagnostics.overflow import k3_terms
from alpkit.metrics import WATCHED
from alpkit.runs.spike_log import Spike, SpikeToken

_TOKENS: Final = 10
_SEQUENCES: Final = 3
_TEXT: Final = 400  # characters of a response that a line keeps

Columns = Mapping[str, np.ndarray]
Texts = Callable[[list[int]], str]


class Found(NamedTuple):
    """One metric that stood out at this step."""

    metric: str
    value: float
    z: float


class SpikeWatch:
    """Judges the watched metrics of one run, step by step."""

    def __init__(self, state: Mapping[str, list[float]] | None = None) -> None:
        history = state or {}
        self._detectors = {m: SpikeDetector(history=history.get(m, ())) for m in WATCHED}

    @property
    def state(self) -> dict[str, list[float]]:
        """Give the state that a checkpoint keeps."""
        return {metric: detector.history for metric, detector in self._detectors.items()}

    def judge(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[Found]]:
        """Take one step's metrics; returns `<area>/spike` and `/spike_z`, and the metrics that stood out.

        While history is short, or where the step did not compute a metric, there is no verdict and no key.
        """
        verdicts: dict[str, float] = {}
        stood_out = []
        for metric, detector in self._detectors.items():
            if metric not in metrics:
                continue
            spike = detector.update(metrics[metric])
            if spike.status != "ok":
                continue
            area = WATCHED[metric]
            flag, z = f"{area}/spike", f"{area}/spike_z"
            verdicts[flag] = max(verdicts.get(flag, 0.0), float(spike.is_spike))
            verdicts[z] = max(verdicts.get(z, -math.inf), spike.z)
            if spike.is_spike:
                stood_out.append(Found(metric, metrics[metric], spike.z))
        return verdicts, stood_out


def explain(
    step: int, spike: Found, tokens: Columns, responses: Mapping[int, list[int]], decode: Texts
) -> Spike:
    """Explain one spike: the share of the metric that its largest tokens and sequences carry.

    A token's contribution to K3 is exp(d) - 1 - d, nats (finite ones, as in the metric); to the gradient's
    norm |d loss / d log pi|, 0 where a clip took the gradient. k3_max: of the update with the largest
    mean. `responses`: token ids by sample.
    """
    contribution = _contribution(spike.metric, tokens)
    rows = _rows(spike.metric, tokens, contribution)
    contribution = contribution[rows]
    sample = tokens["sample"][rows]
    made = attribute(contribution, sample)
    return {
        "step": step,
        "metric": spike.metric,
        "value": spike.value,
        "z": spike.z,
        "status": made.status,
        "share_tokens": _shares(made.share_tokens),
        "share_sequences": _shares(made.share_sequences),
        "tokens": _token_lines(made, rows, contribution, tokens, decode),
        "sequences": [
            {
                "sample": part.sequence,
                "prompt": int(tokens["prompt"][rows][sample == part.sequence][0]),
                "contribution": _finite(part.contribution),
                "share": _finite(part.share),
                "tokens": part.tokens,
                "text": decode(responses[part.sequence])[:_TEXT],
            }
            for part in made.sequences[:_SEQUENCES]
        ],
    }


def _rows(metric: str, tokens: Columns, contribution: np.ndarray) -> np.ndarray:
    """Select the tokens that the metric is made of."""
    rows: np.ndarray = np.arange(contribution.size)
    if metric == "train/grad_norm":
        return rows
    rows = rows[np.isfinite(contribution)]
    if metric != "kl/k3_max":
        return rows
    update = tokens["update"][rows]
    means = reduce_to_level(contribution[rows], update, "geometric")
    return np.asarray(rows[update == np.unique(update)[np.argmax(means)]])


def _contribution(metric: str, tokens: Columns) -> np.ndarray:
    if metric == "train/grad_norm":
        return np.asarray(tokens["slope"].astype(np.float64))
    d = tokens["logp_train"].astype(np.float64) - tokens["logp_rollout"]
    return k3_terms(d)


def _token_lines(
    made: Attribution, rows: np.ndarray, contribution: np.ndarray, tokens: Columns, decode: Texts
) -> list[SpikeToken]:
    total = float(np.abs(contribution).sum())
    lines: list[SpikeToken] = []
    numerator = "logp_train" if "logp_train" in tokens else "logp_perturbed"
    for index in made.tokens[:_TOKENS]:
        at = rows[index]
        log_ratio = float(tokens[numerator][at]) - float(tokens["logp_rollout"][at])
        size = float(contribution[index])
        lines.append(
            {
                "sample": int(tokens["sample"][at]),
                "prompt": int(tokens["prompt"][at]),
                "position": int(tokens["position"][at]),
                "token": int(tokens["token"][at]),
                "text": decode([int(tokens["token"][at])]),
                "log_ratio": _finite(log_ratio),
                "contribution": _finite(size),
                "share": _finite(size / total) if total > 0 else None,
            }
        )
    return lines


def _shares(shares: Mapping[int, float]) -> dict[str, float | None]:
    return {str(k): _finite(share) for k, share in shares.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
