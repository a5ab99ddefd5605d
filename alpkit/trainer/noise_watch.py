"""Says how large a run's noise is: at step 1, and again whenever some layer's sigma has changed by a factor of 2.

    watch.look(step, metrics)

The numbers are the step's own metrics; what is too small or too large is `alpkit.diagnostics.noise_size`'s.
"""

import logging
import re
from collections.abc import Mapping

from alpkit.diagnostics.noise_size import NoiseSize

logger = logging.getLogger("alpkit.trainer")

_FACTOR = 2 * (1 - 1e-9)
_RATIOS = {"rollout": "ratio/raw/token/std", "old": "ratio/staleness/token/std"}
_SIGMA = re.compile(r"sigma/layer_\d+")
_TO_RMS = "noise/to_rms"


class NoiseWatch:
    """Remembers the sigmas that it last spoke of; `denominator` is that of the objective's ratio."""

    def __init__(self, denominator: str) -> None:
        self._ratio = _RATIOS.get(denominator, "")
        self._told: dict[str, float] = {}

    @property
    def state(self) -> dict[str, float]:
        """Sigmas that were last judged; empty before."""
        return dict(self._told)

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on where `state` was kept."""
        self._told = dict(state)

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the noise's size, and a caution where it is wrong, if there is something new to say."""
        moved = metrics.get("ratio/perturbation/token/std")
        if moved is None or _TO_RMS not in metrics:
            return  # a step without diagnostics
        sigmas = _sigmas(metrics)
        if not self._changed(sigmas):
            return
        self._told = sigmas
        size = NoiseSize(places(metrics), moved, metrics.get(self._ratio, 0.0))
        logger.info("step %d: %s", step, size)
        for text in size.cautions():
            logger.warning("step %d: %s", step, text)

    def _changed(self, sigmas: Mapping[str, float]) -> bool:
        if self._told.keys() != sigmas.keys():
            return True
        return any(
            max(sigma, self._told[key]) >= _FACTOR * min(sigma, self._told[key])
            for key, sigma in sigmas.items()
            if sigma != self._told[key]  # a schedule may have made both zero
        )


def places(metrics: Mapping[str, float]) -> dict[str, float]:
    """Read noise over rms by layer, or one number where the site has no layers."""
    start = f"{_TO_RMS}/"
    layers = {
        key.removeprefix(start).replace("_", " "): value
        for key, value in metrics.items()
        if key.startswith(start)
    }
    return layers or {"site": metrics[_TO_RMS]}


def _sigmas(metrics: Mapping[str, float]) -> dict[str, float]:
    """Each layer's sigma; the mean where there are no layers."""
    layers = {key: value for key, value in metrics.items() if _SIGMA.fullmatch(key)}
    return layers or {"sigma/mean": metrics["sigma/mean"]}
