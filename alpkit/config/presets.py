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
_HEAD_OF_128 = {"rollout": {"top_logprobs": 128}}
_BYPASS_TIS = {"weight": {"action": "truncate", "of": "bypass", "level": "token", "upper": 2.0}}
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


def _region(band: dict[str, float], *rules: dict[str, Any]) -> dict[str, Any]:
    """Tokens inside a region around mu carry rho up to a cap; the others keep their place in the denominator."""
    return {
        "objective": {
            "ratio": {"denominator": "rollout"},
            "surrogate": {"kind": "cispo", **band},
            "reject": [{"of": "bypass", **rule} for rule in rules],
        }
    }


def _current() -> dict[str, Any]:
    return {"ratio": {"denominator": "current"}, "surrogate": {"kind": "reinforce"}}


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
    "dppo-tv": Preset(
        _region(
            {"epsilon_low": 1.0, "epsilon_high": 19.0},
            {"statistic": "signed_prob_gap", "upper": 0.2, "when": "positive_advantage"},
            {"statistic": "signed_prob_gap", "lower": -0.2, "when": "negative_advantage"},
        ),
        "sg(min(rho_t, 20)) A log pi_theta where pi_theta - mu <= 0.2 for A > 0, >= -0.2 for A < 0; the others are 0",
        "DPPO, arXiv:2602.04879 eq. 13; verl dppo_tv (clip_ratio_low and _high are the bound, clip_ratio_c the cap: "
        "20 documented, 3 stock), SkyRL policy_loss_type: dppo",
        "to bound what rare tokens do: a token of probability 0.001 may grow two-hundredfold within 0.2",
    ),
    "dppo-kl": Preset(
        _region(
            {"epsilon_low": 1.0, "epsilon_high": 19.0},
            {"statistic": "binary_kl", "upper": 0.05, "when": "moving_away"},
        ),
        "sg(min(rho_t, 20)) A log pi_theta where KL(mu | pi_theta) of token or not <= 0.05 or the update returns to mu",
        "DPPO, arXiv:2602.04879 eq. 14; verl dppo_kl (its stock bound 0.2 is four times this one), SkyRL dppo_type: "
        "binary_kl",
        "as a KL of the whole distributions: two-way KL of the sampled token is a lower bound of it",
    ),
    "kpop": Preset(
        {
            "objective": {
                "ratio": {"denominator": "rollout"},
                "surrogate": {"kind": "reinforce"},
                **_reject(statistic="binary_kl_both", of="bypass", upper=0.1),
            }
        },
        "sg(rho_t) A log pi_theta where KL(mu | pi_theta) and KL(pi_theta | mu) of token or not are <= 0.1; else 0",
        "Ant Group, note on KPop, 26 May 2026; AReaL rejection_sampling.metric: binary_kl (on pi_old/mu, example 2.0); "
        "prime-rl#3283, open",
        "as a response's rule: it takes single tokens out, and by both directions whatever the advantage's sign",
    ),
    "ipo": Preset(
        _region(
            {"epsilon_low": 1.0, "epsilon_high": 9999.0},
            {"statistic": "prob_gap", "upper": 0.3},
        ),
        "sg(min(rho_t, 1e4)) A log pi_theta where |pi_theta - mu| <= 0.3; the others are 0",
        "prime-rl's default since 18 September 2026 (prime-rl#3586; 0.1 with a pull of 1e-3 (log rho)^2 before)",
        "as Identity Preference Optimisation, another method of that name; it also takes out tokens on their way back",
    ),
    "sapo": Preset(
        {
            "objective": {
                "surrogate": {"kind": "sapo"},
                "aggregate": "seq_mean_token_mean",
            }
        },
        "-A (4/tau) sigmoid(tau (r_t - 1)), tau 1 for A > 0, 1.05 for A < 0: a gate that falls off on both sides",
        "SAPO, arXiv:2511.20347; TRL loss_type: sapo, sapo_temperature_pos, _neg; verl sapo, tau_pos, tau_neg",
        "with another aggregate under this name (AReaL divides by tokens), or to bound pi_old/mu: it is not in r_t",
    ),
    "vespo": Preset(
        {
            "objective": {
                "ratio": {"denominator": "rollout", "level": "product"},
                "surrogate": {"kind": "vespo"},
            }
        },
        "sg(X^k exp(lambda (1 - X))) A log pi_theta, X = prod_t rho_t; (k, lambda) = (2, 3), for A < 0 (3, 2)",
        "VESPO, arXiv:2602.10693; constants of TRL loss_type: vespo (the paper's own were not found)",
        "on long responses without reading receipt/soft_weight: X leaves 1 with length and the weight falls to 0",
    ),
    "reinforce": Preset(
        {"objective": _current()},
        "A log pi_theta with no ratio at all: what score-centering centres",
        "Williams 1992, Machine Learning 8; for language models Ahmadian et al. 2024, arXiv:2402.14740",
        "as a baseline of a corrected arm unless that arm has no clip either: switching the clip off is a change too",
    ),
    "reinforce-tis": Preset(
        {"objective": {**_current(), **_BYPASS_TIS}},
        "sg(min(rho_t, 2)) A log pi_theta",
        "IMPALA, arXiv:1802.01561; cap 2 from miles; the control of score-centering-tis",
        "when staleness and mismatch need bounds of their own",
    ),
    "score-centering": Preset(
        {**_HEAD_OF_128, "objective": {**_current(), "centering": {"kind": "score"}}},
        "A (log pi_theta - sum_H sg(q_v - alpha p_v) log p_v), q = mu, p = pi_theta, H = the sampler's 128 likeliest, "
        "alpha = (1 - Q_H)/(1 - P_H)",
        "Score Centering, arXiv:2609.20807; verl score_centering, slime and vime --use-score-centering, miles "
        "score_centering_is: none",
        "without its control, reinforce: switching it on elsewhere takes PPO's clip off as well, and what helped is "
        "contested (verl's Countdown gains, marin#9291 and SkyRL#2244 see none)",
    ),
    "score-centering-tis": Preset(
        {
            **_HEAD_OF_128,
            "objective": {**_current(), **_BYPASS_TIS, "centering": {"kind": "score"}},
        },
        "A (f(rho_t) log pi_theta - sum_H sg(q_v f(p_v/q_v) - alpha p_v) log p_v), f(x) = min(x, 2), "
        "alpha = x_H f(1/x_H), x_H = (1 - Q_H)/(1 - P_H)",
        "Score Centering, arXiv:2609.20807; miles score_centering_is: tis (2)",
        "without its control, reinforce-tis: where no candidate meets the cap the correction is 0",
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
