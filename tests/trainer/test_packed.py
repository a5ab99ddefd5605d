"""A packed update is the padded one, for every preset, and with noise at every site and scale: within 1e-5."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from alpkit.config import PRESETS, ObjectiveConfig, PerturbationConfig
from alpkit.policy.loading import load_policy
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.trainer.batches import cut, gather
from alpkit.trainer.clock import Clock
from alpkit.trainer.collect import collect
from alpkit.trainer.state import set_up
from alpkit.trainer.update import update_policy, with_logp_old
from tests.trainer.test_train_cell import config

SITES = get_args(PerturbationConfig.model_fields["site"].annotation)
SCALES = get_args(PerturbationConfig.model_fields["scale"].annotation)
PLACES = [(site, scale) for site in SITES for scale in SCALES]
OBJECTIVES = {
    name: ObjectiveConfig.model_validate(preset.settings.get("objective", {}))
    for name, preset in PRESETS.items()
}
# A weight beside the noise, or a ratio of 1, is no legal arm.
NOISY = [
    name
    for name, objective in OBJECTIVES.items()
    if objective.weight.action == "none" and objective.ratio.denominator != "current"
]


# Some presets need the sampler's likeliest tokens, which are kept where they are recorded.
ROLLOUT = {"max_tokens": 12, "weights": "bfloat16", "top_logprobs": 8}
FIRST = dict(zip(NOISY, PLACES, strict=False))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    torch.set_num_threads(1)
    state = set_up(
        config(rollout=ROLLOUT, records={"top_logprobs": True}), tmp_path_factory.mktemp("run")
    )
    # Presets that pull towards the starting policy need one; it is read only where they do.
    state.reference = load_policy(state.config.model).model
    yield state, collect(state, 1)
    state.sampler.close()
    state.records.close()


def updated(sampled, objective, noise, *, packed):
    """Log-probs of every token, and the loss and all gradients of update 1, which the optimizer never sees."""
    state, batch = sampled
    perturbation = None if noise is None else LayerwisePerturbation(state.policy.model, noise)
    state = replace(
        state,
        config=state.config.model_copy(update={"objective": objective, "perturbation": noise}),
        perturbation=perturbation,
        packing=state.packing if packed else None,
    )
    parameters = list(state.policy.model.parameters())
    if perturbation is not None:
        parameters += perturbation.parameters()
    gradients = []
    state.optimizer.step = lambda: gradients.extend(p.grad.clone() for p in parameters)
    # Of this one method the loss depends on the cut, so that it must be the same.
    budget = 4096 if objective.aggregate == "token_mean_per_micro_batch" else 100
    micros = cut(batch, updates=4, tokens=budget, padded=not packed)[1]
    (micros,) = with_logp_old(state, [micros])
    update = update_policy(state, micros, diagnose=True, clock=Clock())
    if perturbation is not None:
        perturbation.remove()
    table = gather(update.rows).host()
    logps = {name: table[name] for name in table if name.startswith("logp_") or name == "slope"}
    cuts = [micro.sample.tolist() for micro in micros]
    return logps, update, gradients, cuts


def assert_same(sampled, name, noise=None):
    objective = OBJECTIVES[name]
    logps, update, gradients, cuts = updated(sampled, objective, noise, packed=True)
    others, padded, peers, padded_cuts = updated(sampled, objective, noise, packed=False)
    assert (cuts != padded_cuts) == (objective.aggregate != "token_mean_per_micro_batch")
    assert set(logps) >= {"logp_old", "logp_train", "slope"}
    assert ("logp_perturbed" in logps) == (noise is not None)
    for column, values in logps.items():
        assert abs(values - others[column]).max() <= 1e-5, column
    assert update.loss == pytest.approx(padded.loss, abs=1e-5)
    assert len(gradients) == len(peers) > 0
    for ours, theirs in zip(gradients, peers, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max().item())
    assert max(g.abs().max().item() for g in gradients) > 1e-3
    if noise is not None:
        assert gradients[-1].abs().max() > 0
        assert abs(logps["logp_perturbed"] - logps["logp_train"]).max() > 1e-3


def noise_at(site, scale):
    # Loud enough to be seen a hundred times over, too quiet for a product to leave every clip band.
    return PerturbationConfig(site=site, scale=scale, sigma={"init": 0.004})


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "/" in n else []) for n in PRESETS]
)
def test_every_preset_without_noise_and_with_it_somewhere(sampled, name):
    assert_same(sampled, name)
    if name in FIRST:
        assert_same(sampled, name, noise_at(*FIRST[name]))


def test_all_places_are_somewhere():
    assert len(FIRST) == len(PLACES) == 12
    assert not any("/" in name for name in FIRST)  # those of the papers' scripts are slow tests


@pytest.mark.slow
@pytest.mark.parametrize(("site", "scale"), PLACES)
@pytest.mark.parametrize("name", NOISY)
def test_every_preset_with_noise_at_every_site_and_scale(sampled, name, site, scale):
    assert_same(sampled, name, noise_at(site, scale))
