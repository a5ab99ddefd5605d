"""The presets `paper/*`: published scripts and papers as they were released, quirks included.

Named apart so that nobody takes them for the clean method of the same name. Each entry says what comes
from the script, the README or the paper, when to leave it alone, and what alpkit does not take from it.
Settings of the run (learning rate, batch, lengths) are no part of a method and are nowhere taken. Plain
data.
"""

from typing import Any, Final

_SCRIPTS: Final = "released scripts of arXiv:2603.19470"
_SINGLE, _MULTI = f"{_SCRIPTS}, single-turn", f"{_SCRIPTS}, multi-turn"
_GRPO_CLIP: Final = {"epsilon_low": 0.2, "epsilon_high": 0.28}
_ALP_CLIP: Final = {"epsilon_low": 0.5, "epsilon_high": 3.0}
_GSPO_CLIP: Final = {"epsilon_low": 3e-4, "epsilon_high": 4e-4}
_ONE_SIDED: Final = [-60.0, 10.0]
"""The multi-level loss of the baselines clamps log ratios from above only, at 10."""
_OLD_PRODUCT: Final = {"denominator": "old", "level": "product"}
_BYPASS_PRODUCT: Final = {"denominator": "rollout", "level": "product"}
_KL: Final = {"coef": 1e-3, "estimator": "k3", "log_ratio_clamp": 20.0, "value_clamp": 10.0}
_RUN: Final = "settings of the run"
_NOISE: Final = "noise seeded per rank, on pads too, in bfloat16, with log sigma in bfloat16; settings of the run"


def _script(
    *, clip: dict[str, float], dual_clip: float, kl: bool = False, **axes: Any
) -> dict[str, Any]:
    """Build a script's settings: all take the mean of micro-batch token means, most single-turn ones add a k3 KL."""
    axes = {"surrogate": {**clip, "dual_clip": dual_clip}, **axes}
    if kl:
        axes["reference_kl"] = _KL
    return {"objective": {**axes, "aggregate": "token_mean_per_micro_batch"}}


def _weight(action: str, level: str, upper: float) -> dict[str, Any]:
    return {"action": action, "of": "mismatch", "level": level, "upper": upper}


def _band_rejection(level: str, cap: float) -> list[dict[str, Any]]:
    """Leave out what is not in [1/cap, cap], and leave it out of the denominator too."""
    bounds = {"lower": 1 / cap, "upper": cap}
    return [{"statistic": "ratio", "level": level, **bounds, "normalizer": "shrink"}]


def _noise(init: float, lr: float | None) -> dict[str, Any]:
    """Noise at every layer's input; `lr` None: sigma is fixed."""
    learned = {"learnable": True, "lr": lr, "weight_decay": 0.01}
    sigma = {"learnable": False} if lr is None else learned
    return {
        "perturbation": {
            "site": "layer_input",
            "layers": "all",
            "sigma": {"init": init, **sigma},
        }
    }


# Settings, formula, source, when to avoid it, what is not taken: the fields of `Preset`.
PAPER: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "paper/gspo": (
        {
            "objective": {
                "ratio": {"denominator": "old", "level": "geometric"},
                "surrogate": _GSPO_CLIP,
                "aggregate": "seq_mean_token_mean",
            }
        },
        "gspo with the published band [1 - 3e-4, 1 + 4e-4]",
        "paper: Zheng et al. 2025, GSPO, arXiv:2507.18071",
        "on short responses or large learning rates: nearly every sequence is clipped",
        "the clamp of the log ratio at 10 from above, which is verl's and not the paper's",
    ),
    "paper/seq-grpo": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True),
        "clip(r_t) per token, band [0.8, 1.28], dual clip 10, + 1e-3 k3",
        f"script: {_SINGLE}, the figures' 'Seq-GRPO'",
        "as a sequence method: the label says Seq-, the launcher uses the token loss",
        _RUN,
    ),
    "paper/token-tis": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("truncate", "token", 5.0)),
        "min(w_t, 5) * clip(r_t), band [0.8, 1.28], dual clip 10, + 1e-3 k3",
        f"script: {_SINGLE}, its TIS at the token level",
        "beside token-tis without saying that the cap is 5, not 2",
        _RUN,
    ),
    "paper/seq-tis": (
        _script(
            clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("truncate", "product", 5.0)
        ),
        "min(W, 5) * clip(r_t) per token, W = prod_t w_t, + 1e-3 k3",
        f"script: {_SINGLE}, the default of its TIS",
        "as a sequence-level loss: only the weight is; the clip is per token",
        _RUN,
    ),
    "paper/token-mis": (
        _script(
            clip=_GRPO_CLIP,
            dual_clip=10.0,
            kl=True,
            weight=_weight("truncate", "product", 3.0),
            reject=_band_rejection("product", 3.0),
        ),
        "min(W, 3) * clip(r_t), W = prod_t w_t; a response outside 1/3 <= W <= 3 leaves loss and denominator",
        f"script: {_SINGLE}: its 'mask' truncates the weight and rejects at the same level with the same cap",
        "as token-level masking (token-mis is that), or beside an arm that keeps the denominator: the "
        "survivors' step grows",
        _RUN,
    ),
    "paper/token-mis-figure": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True, weight=_weight("mask", "product", 3.0)),
        "W 1[W <= 3] * clip(r_t), W = prod_t w_t; masked responses stay in the denominator",
        f"paper: the 'Token-MIS' of its figures, by the path of that run; script for the rest: {_SINGLE}",
        "as token-level masking: the weight is the response's product; the released script is paper/token-mis",
        _RUN,
    ),
    "paper/seq-mis": (
        _script(clip=_ALP_CLIP, dual_clip=10.0, ratio=_OLD_PRODUCT, log_ratio_clamp=_ONE_SIDED),
        "clip(prod_t r_t), band [0.5, 4], dual clip 10; no importance weight at all, no KL",
        f"script: {_SINGLE}, Qwen3-4B: its sequence losses ignore the weights that the driver computes",
        "as masked importance sampling: as scripted nothing is masked or weighted; seq-mis is the method",
        "the mask in [0, 2] that the script asks for and the loss ignores; settings of the run",
    ),
    "paper/geo-rs": (
        _script(clip=_GRPO_CLIP, dual_clip=10.0, kl=True, reject=_band_rejection("geometric", 5.0)),
        "drop a response unless 1/5 <= exp(mean_t log w_t) <= 5",
        f"script: {_SINGLE}, mode geometric with its default cap 5",
        "as a correction: a geometric mean never leaves this band; geo-rs has bounds that act",
        _RUN,
    ),
    "paper/seq-bypass": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=10.0,
            kl=True,
            ratio=_BYPASS_PRODUCT,
            log_ratio_clamp=_ONE_SIDED,
        ),
        "clip(prod_t rho_t), band [0.5, 4], dual clip 10, + 1e-3 k3",
        f"script: {_SINGLE}",
        "as the control of paper/seq-alp without a word on the clamps: they are one-sided here",
        "that one update per rollout sets the ratio to 1, so that no mismatch is left; settings of the run",
    ),
    "paper/seq-alp": (
        _script(clip=_ALP_CLIP, dual_clip=10.0, kl=True, ratio=_BYPASS_PRODUCT)
        | _noise(0.02, 0.01),
        "clip(prod_t rho^delta_t), band [0.5, 4], sigma 0.02 learned at lr 1e-2, log sigma decays by 0.01",
        f"script: {_SINGLE}; paper: that the noise is on, which the script forgets to switch on",
        "to reproduce the released noise bit for bit",
        _NOISE,
    ),
    "paper/seq-alp-as-released": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=10.0,
            kl=True,
            ratio=_BYPASS_PRODUCT,
            log_ratio_clamp=_ONE_SIDED,
        ),
        "clip(prod_t rho_t): the script never sets use_perturbation, so no noise acts",
        f"script: {_SINGLE}, its ALP run as it stands: the same loss as paper/seq-bypass",
        "as ALP: it is a bypass",
        _RUN,
    ),
    "paper/mt-token-mis": (
        _script(clip=_GRPO_CLIP, dual_clip=3.0, weight=_weight("mask", "product", 5.0)),
        "W 1[W <= 5] * clip(r_t), dual clip 3",
        f"script: {_MULTI}; README: the row Token-MIS, 48.74",
        "as token-level masking: the weight is the response's product",
        _RUN,
    ),
    "paper/mt-seq-mis": (
        _script(
            clip=_ALP_CLIP,
            dual_clip=3.0,
            ratio=_OLD_PRODUCT,
            weight=_weight("mask", "product", 5.0),
            log_ratio_clamp=_ONE_SIDED,
        ),
        "W 1[W <= 5] * clip(prod_t r_t), band [0.5, 4], dual clip 3, which binds before the band's top",
        f"script: {_MULTI}; README: the row Seq-MIS, 46.94",
        "on long responses: two products, each wider than its bounds",
        "dual clip 5 and cap 2, which one evaluation path carries; settings of the run",
    ),
    "paper/mt-gspo": (
        _script(
            clip=_GSPO_CLIP,
            dual_clip=100.0,
            ratio={"denominator": "old", "level": "geometric"},
            weight=_weight("mask", "product", 5.0),
            log_ratio_clamp=_ONE_SIDED,
        ),
        "W 1[W <= 5] * clip(exp(mean_t log r_t)), band [1 - 3e-4, 1 + 4e-4], token mean",
        f"script: {_MULTI}, which leaves the sequence weight on; README: the row GSPO, 46.57",
        "as GSPO without correction, which the README claims: paper/gspo is that",
        _RUN,
    ),
    "paper/mt-seq-bypass": (
        _script(clip=_GRPO_CLIP, dual_clip=3.0, ratio=_OLD_PRODUCT, log_ratio_clamp=_ONE_SIDED),
        "clip(prod_t r_t) over a recomputed pi_old, band [0.8, 1.28], dual clip 3",
        f"script: {_MULTI}, whose bypass_old_logprob nothing reads; README: the row Seq-Bypass, 46.66",
        "as a bypass: mu is not in the ratio; seq-bypass is the method",
        _RUN,
    ),
    "paper/mt-seq-alp": (
        _script(clip=_ALP_CLIP, dual_clip=3.0, ratio=_BYPASS_PRODUCT) | _noise(1e-6, 5e-4),
        "clip(prod_t rho^delta_t), band [0.5, 4], dual clip 3, sigma 1e-6 learned at lr 5e-4",
        f"script: {_MULTI}: loss, sigma, its learning rate; README: that sigma is learned, and the row "
        "Seq-ALP, 50.53",
        "as evidence for the noise: at 1e-6 in bfloat16 about 3 % of it survives the addition",
        f"noise in the forward of pi_old, which only metrics see; {_NOISE}",
    ),
    "paper/mt-seq-alp-fixed": (
        _script(clip=_ALP_CLIP, dual_clip=3.0, ratio=_BYPASS_PRODUCT) | _noise(1e-6, None),
        "clip(prod_t rho^delta_t), band [0.5, 4], dual clip 3, sigma 1e-6, fixed",
        f"script: {_MULTI}, unedited: sigma is learned only where the model's config.json is edited by hand",
        "as the README's Seq-ALP, which says that sigma is learned: paper/mt-seq-alp is that",
        f"noise in the forward of pi_old, which only metrics see; {_NOISE}",
    ),
    "paper/mt-token-alp": (
        _script(clip=_ALP_CLIP, dual_clip=3.0, ratio={"denominator": "rollout", "level": "token"})
        | _noise(1e-6, 5e-4),
        "clip(rho^delta_t) per token, band [0.5, 4], dual clip 3, sigma 1e-6 learned at lr 5e-4",
        f"README: the row Token-ALP, 49.62, and that sigma is learned; script: {_MULTI}, the flags of Seq-ALP "
        "with the token loss, as no script of its own is released",
        "as a run whose settings are known: that Token-ALP shares Seq-ALP's flags is read, not stated",
        f"noise in the forward of pi_old, which only metrics see; {_NOISE}",
    ),
}
