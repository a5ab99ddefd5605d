# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tails: from token records to a number you can trust
#
# A correction is needed because a few importance ratios are huge. How huge, how often, and would more
# data change the answer? That is a question about the *tail* of the ratio. This notebook takes the token
# records of a grid, looks at the tail with the naked eye, puts a number on it in several ways, and then
# does what one should always do with an estimator: feeds it data whose truth is known.
#
# Everything here works on arrays of log-probabilities. They need not come from alpkit.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from alpkit import analysis
from alpkit.diagnostics import (
    ccdf,
    compare_lognormal,
    fit_gpd,
    fit_khat,
    hill,
    hill_curve,
    moment_estimator,
    qq_exponential,
    reduce_to_level,
    tail_size,
)

here = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "runs").is_dir()]
root = Path(os.environ.get("ALPKIT_ROOT") or (here[0] if here else "."))
frame = analysis.load("latest", root=root, strict=False)
arm = frame.arms[-2] if len(frame.arms) > 1 else frame.arms[0]
columns = ["step", "sample", "prompt", "logp_rollout", "logp_train"]
tokens = frame.records.tokens(arm=arm, columns=columns)
print(f"{arm}: {len(tokens):,} recorded tokens of {tokens['seed'].nunique()} seed(s)")
tokens.head(3)

# %% [markdown]
# `logp_rollout` is what the sampler thought of the token that it drew, `logp_train` what the policy in
# training thinks of it. Their difference is the log ratio; its exponential is the *ratio* itself.
#
# A ratio per token is one way to correct, a ratio per response another: there the tokens' ratios are
# multiplied, so their logs are summed. Summing widens. Both are worth a look, and so is the inverse of
# the ratio: tokens that the policy has all but disowned since they were drawn.

# %%
log_ratio = (tokens["logp_train"] - tokens["logp_rollout"]).to_numpy(float)
response = tokens.groupby(["cell_id", "step", "sample"], sort=False).ngroup().to_numpy()
product = reduce_to_level(log_ratio, response, "product")
pd.DataFrame({"token": pd.Series(log_ratio), "product": pd.Series(product)}).describe(
    percentiles=[0.02, 0.5, 0.98]
).round(3)

# %% [markdown]
# ## Look first
#
# Below left: which share of the ratios is above z? On log-log axes a power law is a straight line. The
# band comes from drawing whole *prompts* again and again: the tokens of a prompt rise and fall together,
# so a thousand tokens of ten prompts are ten observations more than they are a thousand.
#
# Right: the Hill estimate of the tail's *shape* for every number k of largest ratios one could use. A
# shape of 0 is a light tail; above 0.5 the ratio has no variance, and above 1 no mean. Where the curve is
# flat, the choice of k does not matter. Where it is not, no single number describes this tail.

# %%
prompt = tokens.groupby(["cell_id", "step", "prompt"], sort=False).ngroup().to_numpy()
above = ccdf(log_ratio, cluster=prompt, n_boot=100)
ks = np.unique(np.geomspace(10, max(len(log_ratio) // 10, 20), 40).astype(int))
curve = hill_curve(log_ratio, ks, cluster=prompt, n_boot=100)

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
seen = above.survival > 0
left.plot(np.exp(above.log_size[seen]), above.survival[seen])
left.fill_between(np.exp(above.log_size[seen]), above.low[seen], above.high[seen], alpha=0.2)
left.set(xscale="log", yscale="log", xlabel="z", ylabel="share of ratios above z", title=arm)
right.plot(curve.k, curve.estimate)
right.fill_between(curve.k, curve.low, curve.high, alpha=0.2)
right.axvline(tail_size(len(log_ratio)), color="grey", ls=":")
right.set(xscale="log", xlabel="k, largest ratios used", ylabel="Hill estimate", ylim=(0, None))
plt.show()

# %% [markdown]
# ## Put a number on it
#
# Four estimators of the same shape, all on the dotted line's number of largest ratios:
#
# - **Hill** assumes an exact power law above the threshold, and is always positive;
# - the **generalised Pareto** fit allows for a tail that ends, or is light (shape 0 or below);
# - **Pareto k-hat** is that fit pulled a little towards 0.5, the form in which it is used to decide
#   whether an importance-weighted mean can be trusted: up to 0.7 it can;
# - the **moment estimator** corrects Hill for tails that are no power law.
#
# When they agree, believe them. When Hill says 0.3 and the others say 0, the tail is not a power law.


# %%
def estimates(values, cluster=None, n_boot=100):
    """All four on the same tail, by name."""
    k, options = tail_size(len(values)), {"cluster": cluster, "n_boot": n_boot}
    return {
        "Hill": hill(values, k, **options),
        "generalised Pareto": fit_gpd(values, **options),
        "k-hat": fit_khat(values, **options),
        "moment": moment_estimator(values, k, **options),
    }


found = estimates(log_ratio, prompt)
table = {name: fit._asdict() for name, fit in found.items()}
pd.DataFrame(table).T[["estimate", "low", "high", "n_tail", "status"]]

# %% [markdown]
# `status` is part of the answer: `ok`; `high` where the mean of the ratios is not to be trusted at this
# sample size; `flat` for no spread (good news); `short` for too little data; `saturated` where a clamp or
# equal values cut the tail, so that the estimate is too low.
#
# ## Feed it the truth
#
# Now the same estimators on ratios that we draw ourselves: power laws of shape 0.3, 0.6 and 0.9, and a
# log-normal, which looks much like a power law for a while but has shape 0 in the end. Fifty data sets of
# 4,000 ratios each; shown is the mean estimate and how far single data sets scatter.

# %%
rng = np.random.default_rng(0)
draws = {
    "power law 0.3": lambda n: rng.exponential(0.3, n),
    "power law 0.6": lambda n: rng.exponential(0.6, n),
    "power law 0.9": lambda n: rng.exponential(0.9, n),
    "log-normal": lambda n: rng.normal(0, 0.5, n),
}
rows = []
for draw in draws.values():
    many = pd.DataFrame(
        [
            {name: fit.estimate for name, fit in estimates(draw(4000), n_boot=0).items()}
            for _ in range(50)
        ]
    )
    rows.append({name: f"{many[name].mean():.2f} ± {many[name].std():.2f}" for name in many})
pd.DataFrame(rows, index=list(draws))

# %% [markdown]
# On power laws all four are right on average, and Hill scatters least. On the log-normal Hill is sure of a
# shape that is not there, while the others come closer to 0. So a small Hill value alone proves nothing:
# read it with k-hat, and with the picture below, which sets the largest log ratios against what a power
# law would give. A straight line is a power law; a line that bends down is lighter.

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
samples = {
    "power law 0.6": draws["power law 0.6"](4000),
    "log-normal": draws["log-normal"](4000),
    f"this grid's {arm}": log_ratio,
}
for panel, (name, values) in zip(axes, samples.items()):
    qq = qq_exponential(values)
    panel.fill_between(qq.expected, qq.band_low, qq.band_high, color="grey", alpha=0.2)
    panel.plot(qq.expected, qq.observed, ".", ms=4)
    verdict = compare_lognormal(values)
    panel.set_title(f"{name}\nr = {qq.linearity:.3f}, p = {verdict.p:.2g}")
    panel.set_xlabel("exponential quantile")
axes[0].set_ylabel("log excess, nats")
plt.show()

# %% [markdown]
# p is small where a log-normal describes the tail better than a power law.
#
# ## Why prompts and not tokens
#
# Last, the interval. Below, all ten tokens of a prompt share one draw: there are 400 independent
# observations in 4,000 tokens. We know the truth, so we can count how often a 90 % interval contains it:
# once with tokens resampled as if they were independent, once with whole prompts.

# %%
covered = {"tokens as if independent": 0, "whole prompts": 0}
repeats, truth = 40, 0.6
owner = np.repeat(np.arange(400), 10)
for _ in range(repeats):
    shared = np.repeat(rng.exponential(truth, 400), 10) + 1e-6 * rng.random(4000)
    for name, cluster in zip(covered, (np.arange(4000), owner)):
        fit = hill(shared, 400, cluster=cluster, n_boot=60)
        covered[name] += fit.low <= truth <= fit.high
shares = {name: f"{100 * count / repeats:.0f} %" for name, count in covered.items()}
pd.Series(shares, name="90 % intervals that hold the truth")

# %% [markdown]
# That is why every interval of alpkit resamples prompts. The table of all arms, levels and sides is one
# call, `analysis.tail_frame(frame)`; the report of `alpkit analyze` holds it with the same figures.
