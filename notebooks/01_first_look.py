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
# # A first look at a grid
#
# `make quickstart` trained the same tiny model several times: once per *arm* (a way of correcting for
# the gap between the policy that samples and the policy that is trained) and *seed*. One such training
# is a *cell*; all of them together are a *grid*. This notebook opens the newest grid in five steps.
#
# It reads files only: nothing here trains, and nothing needs a GPU or a network. Start Jupyter in the
# folder that holds `runs/`, or say where that folder is with the environment variable `ALPKIT_ROOT`.

# %%
import os
from pathlib import Path

from alpkit import analysis

here = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "runs").is_dir()]
root = Path(os.environ.get("ALPKIT_ROOT") or (here[0] if here else "."))
frame = analysis.load("latest", root=root, strict=False)
print(frame.grid.name, "-", frame.grid.question)
frame.cells[
    ["arm", "seed", "state", "steps_done", "final_reward", "eval_greedy", "k3_mean", "width"]
]

# %% [markdown]
# One row is one cell. `final_reward` averages the last ten steps and `eval_greedy` the last
# evaluations on held-out problems: single last values jump about and invite wrong conclusions.
# `k3_mean` and `width` say how far apart the sampler and the policy in training were.
#
# Now the same numbers over time. Every step that was logged is a row of `frame.steps`; the columns are
# the metric keys that `docs/metrics.md` explains. Mind the spread between seeds of one arm before
# you read anything into the gap between two arms.

# %%
import matplotlib.pyplot as plt

fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
looks = analysis.looks(frame.cells)
for panel, key in zip(axes, ["reward/mean", "kl/k3"]):
    for (arm, seed), cell in frame.steps.groupby(["arm", "seed"], sort=False):
        line = cell[["step", key]].dropna()
        label = arm if seed == frame.cells["seed"].min() else None
        panel.plot(line["step"], line[key], color=looks[arm].colour, lw=1, label=label)
    panel.set(xlabel="step", title=key)
axes[1].set_yscale("log")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# The importance ratio is where the two policies meet: for each sampled token, its probability under
# the policy in training divided by its probability under the sampler. If the two agreed, every log
# ratio would be 0. The records hold the log-probabilities of every token of some steps, so you can
# look at the whole distribution and not only at its mean. They are read when you ask, and only the
# columns that you name.

# %%
tokens = frame.records.tokens(columns=["step", "logp_rollout", "logp_train"])
tokens["log_ratio"] = tokens["logp_train"] - tokens["logp_rollout"]
tokens.groupby("arm", sort=False)["log_ratio"].describe(percentiles=[0.02, 0.5, 0.98]).round(3)

# %% [markdown]
# A few huge ratios can rule an update, so the tail matters more than the middle. The *Pareto k-hat*
# measures its weight: below 0.5 the ratio has a variance, above 0.7 not even its mean can be trusted.
# The bounds come from resampling whole prompts, because the tokens of one prompt move together.
# `status` says when there is too little spread (`flat`) or too little data (`short`) to fit anything.

# %%
tails = analysis.tail_frame(frame)
columns = ["arm", "level", "side", "n", "khat", "khat_low", "khat_high", "status", "hill", "ess"]
tails[columns].round(2) if len(tails) else "no finished cell with records yet"

# %% [markdown]
# All of this, with figures, tests against each arm's control and a list of what is missing, is in the
# report. It gives a verdict only where there are three seeds or more: with fewer, a difference between
# two arms and a difference between two seeds look the same.

# %%
report = analysis.analyze("latest", root=root)
print(report.summary["opening"])
report.folder / "report.html"

# %% [markdown]
# Open that file in a browser. To try something of your own, change one line in a copy of
# `experiments/quickstart.yaml` (for example `weights: int8`, a smaller gap) and run
# `alpkit run` on it; then run this notebook again: `latest` is the new grid.
