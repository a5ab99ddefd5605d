"""The named methods as points of the objective's axes, each with its source.

A preset is plain data in config-file form; arms may override any of it. A new method is a new entry
here, its mathematics in `alpkit.objective`, its row in the docs and its tests; nothing else.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A method: its settings, formula, source, and when to leave it alone."""

    settings: dict[str, Any]
    formula: str
    source: str
    avoid: str


_BYPASS_CLIP = {"epsilon_low": 0.5, "epsilon_high": 3.0, "dual_clip": 10.0}
_ALP = {
    "site": "layer_input",
    "layers": "all",
    "sigma": {"init": 0.02, "learnable": True, "lr": 0.01},
}


def _bypass(level: str) -> dict[str, Any]:
    return {"ratio": {"denominator": "rollout", "level": level}, "surrogate": _BYPASS_CLIP}


PRESETS: dict[str, Preset] = {
    "grpo": Preset(
        {"objective": {}},
        "clip(r_t), r = pi_theta/pi_old, band [0.8, 1.2]",
        "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300",
        "when the sampler's numbers differ from the trainer's: it ignores pi_old/mu",
    ),
    "gspo": Preset(
        {
            "objective": {
                "ratio": {"denominator": "old", "level": "geometric"},
                "surrogate": {"epsilon_low": 0.1, "epsilon_high": 0.1},
                "aggregate": "seq_mean_token_mean",
            }
        },
        "clip(exp(mean_t log r_t)), straight-through per token; band set per grid near grpo's clipped share",
        "Zheng et al. 2025, GSPO, arXiv:2507.18071",
        "with the default band on long responses: calibrate it first (paper/gspo has the published one)",
    ),
    "paper/gspo": Preset(
        {
            "objective": {
                "ratio": {"denominator": "old", "level": "geometric"},
                "surrogate": {"epsilon_low": 3e-4, "epsilon_high": 4e-4},
                "aggregate": "seq_mean_token_mean",
            }
        },
        "gspo with the published band [1 - 3e-4, 1 + 4e-4]",
        "Zheng et al. 2025, GSPO, arXiv:2507.18071",
        "on short responses or large learning rates: nearly every sequence is clipped",
    ),
    "token-tis": Preset(
        {
            "objective": {
                "weight": {"action": "truncate", "of": "mismatch", "level": "token", "upper": 2.0}
            }
        },
        "min(w_t, 2) * clip(r_t), w = pi_old/mu",
        "Yao et al. 2025, 'Your efficient RL framework secretly brings you off-policy RL training'",
        "when one token is off by orders of magnitude: it still trains on it, at the cap",
    ),
    "seq-mis": Preset(
        {
            "objective": {
                "weight": {"action": "mask", "of": "mismatch", "level": "product", "upper": 2.0}
            }
        },
        "W 1[W <= 2] * clip(r_t), W = prod_t w_t",
        "Liu et al. 2025, 'When speed kills stability', and the ALP baselines, arXiv:2603.19470",
        "on long responses: the product's spread grows with length and most sequences are masked or near 0",
    ),
    "seq-bypass": Preset(
        {"objective": _bypass("product")},
        "clip(prod_t rho_t), rho = pi_theta/mu, band [0.5, 4], dual clip 10",
        "ALP baselines, arXiv:2603.19470 (the sigma = 0 control of seq-alp)",
        "on long responses: the product leaves the band easily and whole sequences lose their gradient",
    ),
    "token-bypass": Preset(
        {"objective": _bypass("token")},
        "clip(rho_t), rho = pi_theta/mu, band [0.5, 4], dual clip 10",
        "ALP baselines, arXiv:2603.19470 (the sigma = 0 control of token-alp)",
        "when staleness and mismatch need different bounds",
    ),
    "seq-alp": Preset(
        {"objective": _bypass("product"), "perturbation": _ALP},
        "clip(prod_t rho^delta_t), rho^delta = pi_theta,delta/mu, noise at every layer's input",
        "Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470",
        "without its sigma = 0 control: the published comparisons change band, denominator and noise together",
    ),
    "token-alp": Preset(
        {"objective": _bypass("token"), "perturbation": _ALP},
        "clip(rho^delta_t), rho^delta = pi_theta,delta/mu, noise at every layer's input",
        "Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470",
        "without its sigma = 0 control: the published comparisons change band, denominator and noise together",
    ),
}
