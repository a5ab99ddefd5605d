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
# # Your own correction
#
# In alpkit a correction is not a class to write but a *point on axes*: which ratio, clipped how, weighted
# by what, with which tokens rejected. The named methods (`grpo`, `token-tis`, `seq-mis`, …) are points
# that somebody published. Most points nobody has tried. This notebook picks one, looks at what it does to
# single tokens, trains a tiny model with it for a few steps beside plain GRPO, and reads its receipt.
#
# The idea: keep GRPO's clip, weight each token by how much the old policy disagrees with the sampler, but
# *clip the weight from both sides* to [0.5, 2]; and drop a response altogether where the two disagree by
# more than 0.02 nats per token (mean K3), however good it was.

# %%
from alpkit.config import ObjectiveConfig

mine = {
    "ratio": {"denominator": "old", "level": "token"},
    "weight": {"of": "mismatch", "level": "token", "action": "clip", "lower": 0.5, "upper": 2.0},
    "reject": [{"statistic": "k3", "of": "mismatch", "reduce": "mean", "upper": 0.02}],
}
objective = ObjectiveConfig.model_validate(mine)
print(objective.weight, *objective.reject, sep="\n")

# %% [markdown]
# The settings were checked on the way in: a misspelt key, an impossible value or a combination that would
# count the same ratio twice is an error with the reason, not a run that silently does something else.
#
# ## On paper
#
# `policy_loss` is a plain function of tensors. Below are three responses of three tokens. The sampler and
# the old policy agree on the first; on the second they differ a little at one token; on the third by far.

# %%
import pandas as pd
import torch

from alpkit.objective import policy_loss

logp_old = torch.log(torch.tensor([[0.5, 0.8, 0.9], [0.5, 0.8, 0.6], [0.5, 0.9, 0.9]]))
logp_rollout = torch.log(torch.tensor([[0.5, 0.8, 0.9], [0.5, 0.8, 0.5], [0.5, 0.9, 0.1]]))
output = policy_loss(
    logp=logp_old.clone().requires_grad_(True),
    logp_old=logp_old,
    logp_rollout=logp_rollout,
    mask=torch.ones(3, 3, dtype=torch.bool),
    advantage=torch.tensor([1.0, -1.0, 1.0]),
    config=objective,
)
pd.DataFrame(
    {
        "old / sampler": (logp_old - logp_rollout).exp().flatten().tolist(),
        "weight": output.weight.flatten().tolist(),
        "kept": output.keep.flatten().tolist(),
    },
    index=pd.MultiIndex.from_product([range(3), range(3)], names=["response", "token"]),
).round(3)

# %% [markdown]
# The second response keeps its weight of 1.2; the third is gone, all three tokens of it, for one token
# that the old policy finds nine times as likely as the sampler did. Whether that is wise is what
# training has to show.
#
# ## In a grid
#
# A grid is a file. Yours differs from `experiments/quickstart.yaml` in one line: an arm with your settings
# and a name. Its sampler runs on weights rounded to four bits, so that there is something to correct.
# This one is tiny: two arms, one seed, six steps, in a folder of its own.

# %%
import tempfile
from pathlib import Path

from alpkit.config import expand, load_ablation
from alpkit.launch import Options, run_grid

grid_file = """
name: own
question: Does a clipped weight with a rejection hold the ratio together?
base:
  model: builtin:tiny-addition
  task: {name: addition, digits: 3}
  rollout: {weights: int4, prompts: 16, group: 8}
  train: {steps: 6, updates_per_rollout: 4, lr: 2.0e-5}
  eval: {every: 6, items: 32, k: 2}
  records: {every: 3}
arms:
  - grpo
  - name: mine
    preset: grpo
    objective:
      weight: {of: mismatch, level: token, action: clip, lower: 0.5, upper: 2.0}
      reject: [{statistic: k3, of: mismatch, reduce: mean, upper: 0.02}]
seeds: [0]
"""
folder = Path(tempfile.mkdtemp())
path = folder / "own.yaml"
path.write_text(grid_file)
grid = expand(load_ablation(path))
options = Options(root=folder, launcher="inline", tracking_uri=f"sqlite:///{folder}/mlflow.db")
outcome = run_grid(grid, options)
[(record.arm, record.state) for record in outcome.records]

# %% [markdown]
# From a terminal that is `alpkit run own.yaml`; run it again and nothing happens, as nothing is left to
# do; add a seed and only the new cells run.
#
# ## The receipt
#
# Every run logs what its correction touched. Read it before any curve: a bound that never fired is no
# correction, and one that fires all the time leaves nothing to learn from.

# %%
from alpkit import analysis

frame = analysis.load("own", root=folder)
keys = [
    "clipped_low",
    "clipped_high",
    "truncated",
    "raised",
    "rejected",
    "weight_removed",
    "surviving",
]
steps = frame.steps[frame.steps["step"] > 0]
receipt = steps.groupby("arm", sort=False)[[f"receipt/{key}" for key in keys]].mean()
(100 * receipt).rename(columns=lambda key: key.removeprefix("receipt/")).round(2).transpose()

# %% [markdown]
# In per cent of the tokens (of the importance weight in `weight_removed`), mean over steps. `truncated`
# are weights lowered to 2, `raised` those lifted to 0.5. The rejection is the expensive part: compare
# what it removes with what is left in `surviving`.
#
# ## The ratio
#
# And did it help? Six steps of one seed cannot say; they can show that everything is in place. Any
# figure of the report is drawn by its name:

# %%
# %matplotlib inline
frame.plot("ccdf")

# %% [markdown]
# From here: give it three seeds or more and the steps of the quickstart, look at `alpkit plan own.yaml`
# for what will run, and let `alpkit analyze own` say whether the difference is beyond seed noise. To use
# your correction in several grids, write it into a file and list that under `methods:`; `docs/extend.md`
# shows how, and how to add mathematics that no axis has yet.
