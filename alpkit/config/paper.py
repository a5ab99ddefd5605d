"""`paper/*`: what published scripts and papers run as released, quirks included.

Named apart so that nobody takes them for the clean method of the same name. What the axes cannot
express (noise seeded per rank, bfloat16 log sigma, log-ratio metrics) is named in `avoid`.
Plain data; evidence in `spec/alp.md` B, E and G.
"""

from typing import Any

_SCRIPTS = "released scripts of arXiv:2603.19470"
_SINGLE, _MULTI = f"{_SCRIPTS}, single-turn", f"{_SCRIPTS}, multi-turn"
_GRPO_CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
_ALP_CLIP = {"epsilon_low": 0.5, "epsilon_high": 3.0}
_ONE_SIDED = [-60.0, 10.0]
"""The multi-level loss of the baselines clamps log ratios from above only, at 10 (G18)."""
_PRODUCT = {"denominator": "old", "level": "product"}


def _script(
    *, clip: dict[str, float], dual_clip: float, kl: bool = False, **axes: Any
) -> dict[str, Any]:
    """What all scripts share: the mean of micro-batch token means; single-turn ones add a k3 KL."""
    axes = {"surrogate": {**clip, "dual_clip": dual_clip}, **axes}
    if kl:
        axes["reference_kl"] = {"coef": 1e-3, "estimator": "k3"}
    return {"objective": {**axes, "aggregate": "token_mean_per_micro_batch"}}


def _weight(action: str, level: str, upper: float) -> dict[str, Any]:
    return {"action": action, "of": "mismatch", "level": level, "upper": upper}


def _noise(init: float, lr: float, *, learnable: bool) -> dict[str, Any]:
    settings = {"lr": lr, "weight_decay": 0.01} if learnable else {}
    return {
        "site": "layer_input",
        "layers": "all",
        "sigma": {"init": init, "learnable": learnable, **settings},
    }


PAPER: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "paper/gspo": (
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
    "paper/seq-grpo": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True),
        "clip(r_t) per token, band [0.8, 1.28], dual clip 10, + 1e-3 k3",
        _SINGLE + ", the figures' 'Seq-GRPO'",
        "as a sequence method: the label says Seq-, the launcher uses the token loss",
    ),
    "paper/token-tis": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("truncate", "token", 5.0)),
        "min(w_t, 5) * clip(r_t), band [0.8, 1.28], dual clip 10, + 1e-3 k3",
        _SINGLE,
        "beside token-tis without saying that the cap is 5, not 2",
    ),
    "paper/seq-tis": (
        _script(
            clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("truncate", "product", 5.0)
        ),
        "min(W, 5) * clip(r_t) per token, W = prod_t w_t, + 1e-3 k3",
        _SINGLE + ", the TIS default",
        "as a sequence-level loss: only the weight is; the clip is per token",
    ),
    "paper/token-mis": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("mask", "product", 3.0)),
        "W 1[W <= 3] * clip(r_t): the weight is the response's product inside 'Token-MIS'",
        _SINGLE + ", the figures' run (G11)",
        "as token-level masking: token-mis is that",
    ),
    "paper/seq-mis": (
        _script(
            clip=_ALP_CLIP, dual_clip=10.0, kl=True, ratio=_PRODUCT, log_ratio_clamp=_ONE_SIDED
        ),
        "clip(prod_t r_t), band [0.5, 4]; no importance weight at all",
        _SINGLE + ": its sequence losses ignore the weights that the driver computes (G10)",
        "as masked importance sampling: as scripted nothing is masked or weighted; seq-mis is the method",
    ),
    "paper/geo-rs": (
        _script(
            clip=_GRPO_CLIP,
            dual_clip=10.0,
            kl=True,
            reject=[
                {
                    "statistic": "ratio",
                    "level": "geometric",
                    "lower": 0.2,
                    "upper": 5.0,
                    "normalizer": "shrink",
                }
            ],
        ),
        "drop a response unless 1/5 <= exp(mean_t log w_t) <= 5",
        _SINGLE + ", mode geometric with C = 5",
        "as a correction: a geometric mean never leaves this band; geo-rs has bounds that act",
    ),
    "paper/seq-bypass": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=10.0,
            kl=True,
            ratio={"denominator": "rollout", "level": "product"},
            log_ratio_clamp=_ONE_SIDED,
        ),
        "clip(prod_t rho_t), band [0.5, 4], dual clip 10, + 1e-3 k3",
        _SINGLE,
        "with one update per rollout: the script then sets the ratio to 1 (G9), alpkit does not",
    ),
    "paper/seq-alp": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=10.0,
            kl=True,
            ratio={"denominator": "rollout", "level": "product"},
        )
        | {"perturbation": _noise(0.02, 0.01, learnable=True)},
        "clip(prod_t rho^delta_t), band [0.5, 4], sigma 0.02 at lr 1e-2 with weight decay 0.01 on log sigma",
        _SINGLE + ", with the noise switched on, which its run_exp_perturbation.sh forgets (G7)",
        "to reproduce the released noise bit for bit: theirs is bfloat16, seeded per rank, and covers pads",
    ),
    "paper/seq-alp-as-released": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=10.0,
            kl=True,
            ratio={"denominator": "rollout", "level": "product"},
        ),
        "clip(prod_t rho_t): the script never sets use_perturbation, so no noise acts",
        _SINGLE + ", run_exp_perturbation.sh (G7)",
        "as ALP: it is a bypass",
    ),
    "paper/mt-token-mis": (
        _script(clip=_GRPO_CLIP, dual_clip=3.0, weight=_weight("mask", "product", 5.0)),
        "W 1[W <= 5] * clip(r_t), dual clip 3",
        _MULTI,
        "as token-level masking: the weight is the response's product",
    ),
    "paper/mt-seq-mis": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=3.0,
            ratio=_PRODUCT,
            weight=_weight("mask", "product", 5.0),
            log_ratio_clamp=_ONE_SIDED,
        ),
        "W 1[W <= 5] * clip(prod_t r_t), band [0.5, 4], dual clip 3 (binds before the band's top, G17)",
        _MULTI,
        "on long responses: two products, each wider than its bounds",
    ),
    "paper/mt-gspo": (
        _script(
            clip={"epsilon_low": 3e-4, "epsilon_high": 4e-4},
            dual_clip=100.0,
            ratio={"denominator": "old", "level": "geometric"},
            weight=_weight("mask", "product", 5.0),
            log_ratio_clamp=_ONE_SIDED,
        ),
        "W 1[W <= 5] * clip(exp(mean_t log r_t)), band [1 - 3e-4, 1 + 4e-4], token mean",
        _MULTI + ": the script leaves the sequence weight on (G12)",
        "as GSPO without correction, which its README claims: paper/gspo is that",
    ),
    "paper/mt-seq-bypass": (
        _script(clip=_GRPO_CLIP, dual_clip=3.0, ratio=_PRODUCT, log_ratio_clamp=_ONE_SIDED),
        "clip(prod_t r_t) over a recomputed pi_old, band [0.8, 1.28], dual clip 3",
        _MULTI + ": its bypass_old_logprob flag has no consumer (G8)",
        "as a bypass: mu is not in the ratio; seq-bypass is the method",
    ),
    "paper/mt-seq-alp": (
        _script(clip=_ALP_CLIP, dual_clip=3.0, ratio={"denominator": "rollout", "level": "product"})
        | {"perturbation": _noise(1e-6, 5e-4, learnable=False)},
        "clip(prod_t rho^delta_t), band [0.5, 4], dual clip 3, sigma 1e-6, fixed unless config.json is edited (G6)",
        _MULTI,
        "as evidence for the noise: at 1e-6 in bfloat16 about 3 % of it survives the addition (G1)",
    ),
}
