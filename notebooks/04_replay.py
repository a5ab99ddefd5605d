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
# # Replay: the same batch under other corrections
#
# Two runs with different corrections drift apart after one update: from then on they train on other
# tokens, and a difference between them may come from anywhere. A *replay* asks a smaller question that
# has an exact answer: **this batch was recorded; what would another correction have done with it?**
#
# For that a run needs `records: {replay: true}`. It then keeps, beside the log-probabilities of every
# token, the weights from before each recorded step. So that this notebook needs nothing else, it first
# trains a tiny model for three steps (some seconds on a CPU) in a folder of its own. Its sampler runs
# on weights rounded to four bits, which is what the corrections are there for.

# %%
import tempfile
from pathlib import Path

from alpkit.config import RunConfig, dump_yaml
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.trainer import train_cell

config = RunConfig.model_validate(
    {
        "rollout": {"weights": "int4", "prompts": 24, "group": 8},
        "train": {"steps": 3, "updates_per_rollout": 6, "lr": 5e-5},
        "eval": {"every": 3, "items": 16, "k": 1},
        "records": {"every": 3, "replay": True},
    }
)
run = Path(tempfile.mkdtemp()) / "grpo"
run.mkdir()
(run / "config.yaml").write_text(dump_yaml(config))
train_cell(config, run, CellTracker(run))
for step, metrics in read_steps(run)[1:]:
    print(f"step {step}: reward {metrics['reward/mean']:.3f}, K3 {metrics['kl/k3']:.4f}")

# %% [markdown]
# In your own work the run is one cell of a grid, and this is all you type:
#
#     alpkit replay RUN_ID --methods token-tis,icepop,k3-rs
#
# Here the same from Python. The run itself trained with plain GRPO, which knows nothing of the gap
# between sampler and trainer. The first thing to look at is not a result but a check: replayed under
# its own settings, the run must give the very numbers that it logged.

# %%
from alpkit.replay import replay

methods = ["grpo", "token-tis", "icepop", "k3-rs"]
found = replay(str(run), methods, tokens=True)
print("replay of the run's own method equals what was logged:", found.equals_logged)
found.logged.tail(4)

# %% [markdown]
# One row is one method on one recorded step (the first and the last are always recorded).
#
# - `removed` is the share of tokens that the method takes out, `removed_responses` of whole responses;
# - `mute` is the share of tokens that should teach something (their advantage is not 0) and do not,
#   because they were removed or because the clip band took their gradient;
# - `weight_ess` is the effective sample size of the weights as a share of the tokens: 1 means that all
#   tokens count alike.

# %%
columns = ["loss", "removed", "removed_responses", "mute", "weight_ess", "weight_max"]
found.methods.set_index(["step", "method"])[columns].round(4)

# %% [markdown]
# Two of the methods remove something, by different rules. **IcePop** looks at one token at a time: it
# removes those whose ratio $w$ (old policy over sampler) leaves $[0.5, 5]$. **K3-RS** looks at a whole
# response: it removes all tokens of it when their mean K3 divergence is above 0.01. The picture shows
# every token of the last step with what each rule looks at: icepop cuts at the vertical lines, k3-rs at
# the horizontal one. In responses as short as these one loud token decides the mean, so k3-rs takes
# nearly all that icepop takes, and the quiet neighbours (the column at 0) with it.

# %%
import matplotlib.pyplot as plt
import numpy as np

last = found.tokens[found.tokens["step"] == 3]
removed = last.pivot(index=["sample", "position"], columns="method", values="removed")
tokens = last[last["method"] == "grpo"].set_index(["sample", "position"])
log_w = tokens["logp_old"] - tokens["logp_rollout"]
k3 = (np.exp(log_w) - 1 - log_w).groupby("sample").transform("mean")
sets = {
    "kept by both": ~removed["icepop"] & ~removed["k3-rs"],
    "removed by k3-rs alone": ~removed["icepop"] & removed["k3-rs"],
    "removed by icepop alone": removed["icepop"] & ~removed["k3-rs"],
    "removed by both": removed["icepop"] & removed["k3-rs"],
}
fig, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
for (name, own), colour in zip(sets.items(), ["#c4c4c8", "#3f90da", "#ffa90e", "#bd1f01"]):
    style = {"s": 9, "color": colour, "label": f"{name}: {own.sum()} tokens"}
    axes.scatter(log_w[own], np.maximum(k3[own], 1e-7), **style)
for bound in (0.5, 5.0):
    axes.axvline(np.log(bound), color="#ffa90e", lw=1, ls="--")
axes.axhline(0.01, color="#3f90da", lw=1, ls="--")
axes.set(yscale="log", xlabel="log w of the token, nats", ylabel="mean K3 of its response")
fig.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# How far two methods agree is their *Jaccard index*: tokens that both remove, divided by tokens that
# either removes. 1 means the same tokens, 0 none in common; NaN stands where neither removes anything.

# %%
agreement = found.overlap[(found.overlap["step"] == 3) & (found.overlap["of"] == "removed")]
agreement.pivot(index="method", columns="other", values="jaccard").loc[methods, methods].round(3)

# %% [markdown]
# What was removed need not matter: a token without advantage teaches nothing anyway. The gradient says
# what does. For the first update of each recorded step the policy is loaded as it stood, and each
# method's gradient is compared with the *on-policy* one: the same advantages, no ratio, all weights 1.
#
# - `cosine_on_policy` is 1 where a method leaves the direction alone. GRPO's is exactly 1 here, because
#   in the first update the policy has not moved yet and its ratio is 1;
# - `relative_variance` is the variance of the gradient over prompts, divided by its squared norm. A
#   correction that trusts few tokens pays here.

# %%
columns = ["norm", "on_policy_norm", "cosine_on_policy", "relative_variance", "micro_batches"]
found.gradients.set_index(["step", "method"])[columns].round(3)

# %%
cosines = found.cosines[found.cosines["step"] == 3]
matrix = cosines.pivot(index="method", columns="other", values="cosine").loc[methods, methods]
fig, axes = plt.subplots(figsize=(4.6, 4), layout="constrained")
image = axes.imshow(matrix, vmin=min(0.0, matrix.min().min()), vmax=1, cmap="cividis")
axes.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
axes.set_yticks(range(len(methods)), methods)
for (row, column), cosine in np.ndenumerate(matrix):
    colour = "black" if cosine > 0.6 else "white"
    axes.text(column, row, f"{cosine:.3f}", ha="center", va="center", color=colour, fontsize=9)
axes.set_title("cosine of the methods' gradients", fontsize=10)
plt.show()

# %% [markdown]
# Keep in mind what this is: one batch, from one policy that was trained with one of the methods. It
# says which tokens a correction acts on and how it bends the update, not which correction trains
# better; for that, run the grid.
#
# To replay a correction that has no name, write it into a YAML file as an arm is written and pass the
# file's name among the methods:
#
#     preset: seq-mis
#     objective: {weight: {upper: 1.2}}
