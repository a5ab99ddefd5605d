"""The named methods as points of the objective's axes, each with its source.

A preset is plain data in config-file form; arms may override any of it. A new method is a new entry
here, its mathematics in `alpkit.objective`, its card in the docs and its tests; nothing else. The
settings of released scripts, quirks included, are in `paper.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from alpkit.config.paper import PAPER
from alpkit.errors import ConfigError, did_you_mean

_ALP_PAPER = "Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470"
_MIS = "Liu et al. 2025, 'When speed kills stability', baseline of arXiv:2603.19470"
_TIS = (
    "Yao et al. 2025, 'Your efficient RL framework secretly brings you off-policy RL training', "
    "baseline of arXiv:2603.19470; as old as IMPALA, arXiv:1802.01561"
)
_CONTROL = "without its sigma = 0 control: the published comparisons change band, denominator and noise together"
_BYPASS_CLIP = {"epsilon_low": 0.5, "epsilon_high": 3.0, "dual_clip": 10.0}
# Sigma 0.02, learnable at 0.01, by default: not set here, so that an arm may put target_ratio_std there.
_NOISE = {"site": "layer_input", "layers": "all"}


class Preset(NamedTuple):
    """A method: its settings, formula, source, and when to leave it alone.

    `not_taken`: what the source does besides and alpkit leaves out (`paper/*` alone).
    """

    settings: dict[str, Any]
    formula: str
    source: str
    avoid: str
    not_taken: str = ""


def _bypass(level: str) -> dict[str, Any]:
    return {"ratio": {"denominator": "rollout", "level": level}, "surrogate": _BYPASS_CLIP}


def _weight(action: str, level: str, **bounds: float) -> dict[str, Any]:
    return {"weight": {"action": action, "of": "mismatch", "level": level, **bounds}}


def _reject(**rule: Any) -> dict[str, Any]:
    return {"reject": [rule]}


_METHODS: dict[str, Preset] = {
    "grpo": Preset(
        {"objective": {}},
        "clip(r_t), r = pi_theta/pi_old, band [0.8, 1.2]",
        "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300",
        "when the sampler's numbers differ from the trainer's: it ignores pi_old/mu",
    ),
    "dapo": Preset(
        {"objective": {"surrogate": {"epsilon_low": 0.2, "epsilon_high": 0.28}}},
        "clip(r_t), band [0.8, 1.28], token mean over the whole mini-batch",
        "Yu et al. 2025, DAPO, arXiv:2503.14476 (clip-higher and token-level loss only)",
        "as the whole of DAPO: its dynamic sampling and overlong penalty are the task's and the sampler's",
    ),
    "dr-grpo": Preset(
        {"objective": {"advantage": {"kind": "dr_grpo"}, "aggregate": "fixed_length_mean"}},
        "A = r - mean(r); clip(r_t); sum over tokens / (responses * max_tokens)",
        "Liu et al. 2025, Understanding R1-Zero-like training, arXiv:2503.20783",
        "at a learning rate tuned for a token mean: short responses make its step max_tokens/length smaller",
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
    "cispo": Preset(
        {"objective": {"surrogate": {"kind": "cispo", "epsilon_low": 1.0, "epsilon_high": 4.0}}},
        "-sg(min(r_t, 5)) A log pi_theta, no lower bound; clipped tokens keep a gradient",
        "MiniMax 2025, MiniMax-M1, arXiv:2506.13585; cap 5 from ScaleRL, arXiv:2510.13786",
        "when stale tokens must stop training: no gradient ever dies, only its size is bounded",
    ),
    "token-bypass": Preset(
        {"objective": _bypass("token")},
        "clip(rho_t), rho = pi_theta/mu, band [0.5, 4], dual clip 10",
        "ALP baselines, arXiv:2603.19470 (the sigma = 0 control of token-alp)",
        "when staleness and mismatch need different bounds",
    ),
    "seq-bypass": Preset(
        {"objective": _bypass("product")},
        "clip(prod_t rho_t), rho = pi_theta/mu, band [0.5, 4], dual clip 10",
        "ALP baselines, arXiv:2603.19470 (the sigma = 0 control of seq-alp)",
        "on long responses: the product leaves the band easily and whole sequences lose their gradient",
    ),
    "token-tis": Preset(
        {"objective": _weight("truncate", "token", upper=2.0)},
        "min(w_t, 2) * clip(r_t), w = pi_old/mu",
        _TIS + "; upper 2: verl, slime, SkyRL",
        "when one token is off by orders of magnitude: it still trains on it, at the cap",
    ),
    "seq-tis": Preset(
        {"objective": _weight("truncate", "product", upper=2.0)},
        "min(W, 2) * clip(r_t), W = prod_t w_t",
        _TIS + "; upper 2: verl (TRL 3, SkyRL 5)",
        "on long responses: the spread of log W grows with length, so most weights end at the cap or near 0",
    ),
    "token-mis": Preset(
        {"objective": _weight("mask", "token", upper=2.0)},
        "w_t 1[w_t <= 2] * clip(r_t); the true weight inside, masked tokens stay in the denominator",
        _MIS,
        "as IcePop: it has no lower bound (icepop has), and the released 'Token-MIS' is another method "
        "(paper/token-mis)",
    ),
    "seq-mis": Preset(
        {"objective": _weight("mask", "product", upper=2.0)},
        "W 1[W <= 2] * clip(r_t), W = prod_t w_t",
        _MIS,
        "on long responses: the product's spread grows with length and most sequences are masked or near 0",
    ),
    "icepop": Preset(
        {"objective": _weight("mask", "token", lower=0.5, upper=5.0)},
        "w_t 1[0.5 <= w_t <= 5] * clip(r_t)",
        "Ling Team 2025, Every step evolves (Ring-1T), arXiv:2510.18855",
        "with normalize: batch (the mean holds the zeros, so kept tokens are amplified); it masks fewer "
        "tokens while the gap still widens (verl#6800, AReaL#1405)",
    ),
    "geo-rs": Preset(
        {
            "objective": _reject(
                statistic="ratio", level="geometric", lower=0.999, upper=1.001, normalizer="shrink"
            )
        },
        "drop a response unless 0.999 <= exp(mean_t log w_t) <= 1.001; it leaves the denominator",
        _MIS + "; bounds of verl (NeMo-RL 0.999/1.002, SkyRL 0.99/1.01, slime 1 +- 1e-4)",
        "without looking at receipt/rejected_sequences: for T tokens it tolerates a product of e^(+-0.001 T), "
        "and a low-precision sampler loses nearly everything",
    ),
    "k3-rs": Preset(
        {"objective": _reject(statistic="k3", reduce="mean", upper=0.01, normalizer="shrink")},
        "drop a response when mean_t (w_t - 1 - log w_t) > 0.01; it leaves the denominator",
        "verl 0.9 seq_mean_k3; one of the criteria of Trust Region Masking, arXiv:2512.23075",
        "on short responses: one token decides the mean",
    ),
    "seq-mask-tis": Preset(
        {
            "objective": {
                **_weight("truncate", "token", upper=1e9),
                **_reject(statistic="ratio", level="geometric", lower=0.999, upper=1.002),
            }
        },
        "w_t 1[0.999 <= exp(mean_t log w_t) <= 1.002] * clip(r_t), w_t not truncated (cap: e^20)",
        "NeMo-RL and OpenRLHF seq-mask-tis, bounds of NeMo-RL; band of 'When speed kills stability', "
        "baseline of arXiv:2603.19470",
        "with outlier tokens inside accepted responses: their weights are not bounded",
    ),
    "opsm": Preset(
        {
            "objective": _reject(
                statistic="k1", of="bypass", reduce="mean", upper=0.5, when="negative_advantage"
            )
        },
        "drop a response with A < 0 when mean_t log(mu/pi_theta) > 0.5; it stays in the denominator",
        "DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556; 0.5 from TRL's example (Trinity 0.05-0.2, "
        "slime 1e-4)",
        "at the default bound without reading receipt/rejected: the paper names no value and 0.5 may never fire",
    ),
    "veto": Preset(
        {
            "objective": _reject(
                statistic="k1", reduce="max", upper=9.210340371976184, normalizer="shrink"
            )
        },
        "drop a response when any w_t < 1e-4 (k1 = -log w > 9.21); it leaves the denominator",
        _MIS + "; 1e-4 in slime and older verl",
        "alone: it removes catastrophes and corrects nothing else; on long responses one bad token costs all",
    ),
    "decoupled-ppo": Preset(
        {"objective": _weight("mask", "token", upper=5.0)},
        "w_t 1[w_t <= 5] * clip(r_t): behaviour weight and proximal clip with their own bounds",
        "Hilton et al. 2021, Batch size-invariance, arXiv:2110.00641; cap 5 from AReaL, arXiv:2505.24298",
        "to claim Hilton's estimator: theirs has no cap",
    ),
    "token-alp": Preset(
        {"objective": _bypass("token"), "perturbation": _NOISE},
        "clip(rho^delta_t), rho^delta = pi_theta,delta/mu, noise at every layer's input",
        _ALP_PAPER,
        _CONTROL,
    ),
    "seq-alp": Preset(
        {"objective": _bypass("product"), "perturbation": _NOISE},
        "clip(prod_t rho^delta_t), rho^delta = pi_theta,delta/mu, noise at every layer's input",
        _ALP_PAPER,
        _CONTROL,
    ),
    "geo-alp": Preset(
        {
            "objective": {
                "ratio": {"denominator": "rollout", "level": "geometric"},
                "surrogate": {"epsilon_low": 0.1, "epsilon_high": 0.1},
            },
            "perturbation": _NOISE,
        },
        "clip(exp(mean_t log rho^delta_t)), noise at every layer's input; band to be set per grid as gspo's",
        _ALP_PAPER + " (is_geometric; the scripts' band [0.5, 4] never acts at this level)",
        "with the default band uncalibrated, and " + _CONTROL,
    ),
}

_NONE: Mapping[str, Preset] = {}
PRESETS: dict[str, Preset] = _METHODS | {name: Preset(*fields) for name, fields in PAPER.items()}


def preset(name: object, *, where: str = "", own: Mapping[str, Preset] = _NONE) -> Preset:
    """Look a preset up by its name; raises `ConfigError` that offers the nearest one and lists all.

    `own`: presets from method files, to look among besides.
    """
    known = {**PRESETS, **own}
    if isinstance(name, str) and name in known:
        return known[name]
    raise ConfigError(
        f"{name!r} is not a preset", where=where, fix=did_you_mean(name, known, "presets")
    )
