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
# # Where the noise goes: layer subsets and sites
#
# Adaptive layerwise perturbation adds a little Gaussian noise to the hidden states while the policy is
# trained. Two choices come with it. *Which layers* are noisy: all of them, an early, middle or late
# window, one? And *which site* in a layer: what enters it (`layer_input`, the paper's), or what its
# attention or its MLP adds?
#
# There is a trap in comparing them. The same σ is not the same noise: a site where the hidden states are
# large hardly notices it, more layers mean more of it, and noise that enters early passes through
# everything that follows. So before any training, let us measure what one and the same σ does to the
# log-probabilities of the built-in tiny model, for every site and every single layer.

# %%
# %matplotlib inline
import os
from pathlib import Path

import pandas as pd
import torch

from alpkit import analysis
from alpkit.config import PerturbationConfig
from alpkit.policy.loading import encode_prompt, load_policy
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.tasks.addition import Addition

policy = load_policy("builtin:tiny-addition")
items = [Addition(digits=3).item("train", key) for key in range(64)]
prompts = [encode_prompt(policy.tokenizer, item.prompt) for item in items]
answers = [policy.tokenizer(item.answer)["input_ids"] for item in items]
length = min(len(answer) for answer in answers)
tokens = torch.tensor([[*p, *a[:length]] for p, a in zip(prompts, answers)])
everywhere = torch.ones_like(tokens, dtype=torch.bool)
response = everywhere.clone()
response[:, : len(prompts[0])] = False


@torch.no_grad()
def logprobs():
    """Log-probability of every answer token under the model as it is now."""
    return response_logprobs(policy.model, tokens, everywhere, response).logp[response]


def effect(site, layers, sigma=0.05):
    """Standard deviation of log p with noise - log p without, nats."""
    config = PerturbationConfig(site=site, layers=layers, scale="rms", sigma={"init": sigma})
    perturbation = LayerwisePerturbation(policy.model, config)
    quiet = logprobs()
    with perturbation.active(key=(0, 1, 0)):
        noisy = logprobs()
    perturbation.remove()
    return float((noisy - quiet).std())


rows = {
    site: {str(layers): effect(site, layers) for layers in ("all", [0], [1], [2], [3])}
    for site in ("layer_input", "attention_output", "mlp_output")
}
pd.DataFrame(rows).T.rename_axis("site").round(4)

# %% [markdown]
# One σ (5 % of the size of the hidden state), and effects that differ many times over. An arm that does
# better with noise in all layers may simply have more noise. That is why the grids in `experiments/`
# run each subset and site twice: at equal σ, and at *matched effect*, where σ is chosen per arm such that
# the standard deviation above is the same for all (`sigma: {target_ratio_std: 0.05}`).
#
# ## Layer subsets
#
# `alpkit run experiments/layers.yaml` trains them (about half an hour on two cores). The cell below takes
# the grid called `layers` in your `runs/` folder. One row is one arm: the mean of its seeds.

# %%
here = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "runs").is_dir()]
root = Path(os.environ.get("ALPKIT_ROOT") or (here[0] if here else "."))
layers = analysis.load("layers", root=root, strict=False)
scores = ["eval_greedy", "final_reward", "k3_mean", "width", "khat_right"]
layers.finished.groupby(["arm", "site", "layers"], sort=False, dropna=False)[scores].mean().round(3)

# %% [markdown]
# A mean without its spread invites stories. The figure shows every setting's interval over seeds, for
# several questions at once: did it learn more (accuracy, reward), and did the ratio stay under control
# (K3, width, k-hat)? The shaded column is the control: the same clip, the same denominator, no noise.
# Bars that overlap the shade, or each other, are not told apart by these seeds.

# %%
layers.plot("layers_intervals")

# %% [markdown]
# ## What the training made of σ
#
# Where σ is learnable, the loss pushes each layer's σ up or down. The map shows it over the run: a layer
# that darkens is one whose noise the training wants to be rid of. Mind the colour bar before you read
# anything into it: a σ that moved by one per cent has not moved.

# %%
layers.plot("sigma")

# %% [markdown]
# ## Sites
#
# The same for `experiments/sites.yaml`, in a grid called `sites`. Here all layers are noisy and only the
# place inside the layer differs.

# %%
sites = analysis.load("sites", root=root, strict=False)
sites.plot("sites_intervals")

# %% [markdown]
# Is any of these gaps more than chance? One paired test per arm and endpoint, all corrected together, and
# only from three seeds on. The report of `alpkit analyze` shows them all; here are the first few.

# %%
found = pd.concat({frame.grid.name: frame.table("differences") for frame in (layers, sites)})
print(f"{(found['status'] == 'beyond').sum()} of {len(found)} differences are beyond seed noise")
columns = ["arm", "control", "endpoint", "n", "difference", "low", "high", "p_holm"]
found[columns].groupby(level=0).head(3).round(3)
