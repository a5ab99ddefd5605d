"""Ours against TRL 1.16: log-probs, entropies, off-policy masks, importance weights and losses.

The default run checks three stored batches (`golden/trl.json`, with versions); `make oracle` draws 200
batches afresh and asks the installed TRL. What TRL does otherwise is compared as what it is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import PretrainedConfig, PreTrainedModel

from alpkit.config import ObjectiveConfig
from alpkit.objective import mismatch_correction, policy_loss
from alpkit.policy.logprobs import response_logprobs

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
LEVELS = {"token": "token", "sequence": "product"}
BANDS = {"upper": {"upper": 3.0}, "both": {"lower": 0.5, "upper": 2.0}}
GEOMETRIC = {"ratio": {"level": "geometric"}}
LOSSES = {
    "grpo": {"aggregate": "seq_mean_token_mean"},
    "grpo, sequence": {**GEOMETRIC, "aggregate": "seq_mean_token_mean"},
    "bnpo": {},
    "dr_grpo": {"aggregate": "fixed_length_mean"},
    "dapo": {},
    "luspo": {**GEOMETRIC, "aggregate": "seq_mean_token_sum"},
    "cispo": {"surrogate": {"kind": "cispo", "epsilon_low": 1.0, "epsilon_high": 4.0}},
    # An upper cap on the ratio acts where A < 0 alone: it is the dual clip.
    "delta": {"surrogate": {**CLIP, "dual_clip": 1.5}},
    "opsm": {
        "reject": [
            {"statistic": "k1", "of": "bypass", "reduce": "mean", "upper": 0.05, "when": "negative_advantage"}
        ]
    },
    "kl": {"reference_kl": {"coef": 0.1, "estimator": "k3"}},
}  # fmt: skip


@pytest.fixture(
    scope="module", params=["stored", pytest.param("installed", marks=pytest.mark.oracle)]
)
def cases(request, tmp_path_factory):
    """[(tensors, TRL's outputs)]."""
    path = HERE / "golden" / "trl.json"
    if request.param == "installed":
        path = tmp_path_factory.mktemp("trl") / "trl.json"
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "tests" / "support" / "trl_oracle.py"),
                "1",
                "200",
                str(path),
            ],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / ".oracle"), "OMP_NUM_THREADS": "1"},
        )
    found = json.loads(path.read_text())
    assert found["versions"]["trl"].startswith("1.16.")
    return [
        ({key: exact(value) for key, value in case["inputs"].items()}, case["outputs"])
        for case in found["cases"]
    ]


def exact(values):
    """float64, in which both sides computed, so that what nearly cancels still agrees to 1e-5 of itself."""
    tensor = torch.tensor(values)
    return torch.tensor(values, dtype=torch.float64) if tensor.is_floating_point() else tensor


def weight_of(mode, band):
    level, action = mode.split("_")
    bounds = BANDS[band]
    if action == "truncate" and "lower" in bounds:
        action = "clip"  # TRL's truncation has both sides where it has a minimum
    return {"action": action, "level": LEVELS[level], **bounds}


def loss(data, **axes):
    logp = data["logp"].clone().requires_grad_(True)
    out = policy_loss(
        logp=logp,
        logp_old=data["old"],
        logp_rollout=data["rollout"],
        mask=data["mask"],
        advantage=data["advantage"],
        logp_reference=data["rollout"],
        config=ObjectiveConfig(**{"surrogate": CLIP, **axes}),
    )
    out.loss.backward()
    return out, logp.grad


def compare(data, peer, axes):
    out, gradient = loss(data, **axes)
    value, slope = peer
    assert out.loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert_close(gradient, exact(slope), rtol=1e-5, atol=1e-7)


class Backbone(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden

    def forward(self, **_):
        return SimpleNamespace(last_hidden_state=self.hidden)


class FixedLogits(PreTrainedModel):
    """A language model whose logits are given: its hidden states are the logits, its head the identity."""

    base_model_prefix = "backbone"

    def __init__(self, logits):
        super().__init__(PretrainedConfig(vocab_size=logits.shape[-1]))
        self.backbone = Backbone(logits)

    def get_output_embeddings(self):
        return nn.Identity()


@pytest.mark.parametrize(
    ("name", "temperature"), [("selective_log_softmax", 1.0), ("selective_log_softmax, 0.7", 0.7)]
)
def test_log_probs_and_entropies(cases, name, temperature):
    for data, peer in cases:
        logits, index = data["logits"], data["index"]
        # Logits at one position are of the token at the next; the first token has none.
        tokens = torch.cat([torch.zeros_like(index[:, :1]), index], dim=1)
        padded = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
        response = torch.ones_like(tokens, dtype=torch.bool)
        attention = response.clone()
        response[:, 0] = False
        got = response_logprobs(
            FixedLogits(padded), tokens, attention, response, temperature=temperature
        )
        assert_close(got.logp[:, 1:], exact(peer[name]), rtol=1e-5, atol=1e-6)
        if temperature == 1:
            assert_close(got.entropy[:, 1:], exact(peer["entropy"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.02, 0.5])
def test_off_policy_mask_is_opsm(cases, threshold):
    (rule,) = LOSSES["opsm"]["reject"]
    dropped = 0
    for data, peer in cases:
        out, _ = loss(data, reject=[{**rule, "upper": threshold}])
        kept = torch.tensor(peer[f"off_policy_mask/{threshold}"]).bool()
        assert torch.equal(out.keep.any(dim=1), kept)
        dropped += int((~kept).sum())
    assert dropped > 0 or threshold > 0.1


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_importance_weights(cases, mode, band):
    for data, peer in cases:
        mask = data["mask"]
        config = ObjectiveConfig(weight=weight_of(mode, band))
        got = mismatch_correction(
            logp_old=data["old"], logp_rollout=data["rollout"], mask=mask, weight=config.weight, reject=()
        ).weight  # fmt: skip
        theirs = exact(peer[f"weight/{mode}/{band}"]).expand_as(mask)
        assert_close(got[mask], theirs[mask], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(cases, name):
    compared = [not (name == "kl" and beyond_the_clamp(data)) for data, _ in cases]
    for (data, peer), wanted in zip(cases, compared, strict=True):
        if wanted:
            compare(data, peer[f"loss/{name}"], LOSSES[name])
    assert sum(compared) > 0.8 * len(cases)


def beyond_the_clamp(data):
    """TRL never clamps a log ratio; ours of the reference stops at 20 nats."""
    return ((data["rollout"] - data["logp"]).abs()[data["mask"]] > 20).any().item()


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_weighted_losses(cases, mode):
    for data, peer in cases:
        compare(data, peer[f"loss/weight, {mode}"], {"weight": weight_of(mode, "upper")})


def test_trls_corrected_kl_is_k3_times_the_ratio(cases):
    """use_bias_correction_kl, on by default since TRL 1.16: the KL term is multiplied by the live ratio."""
    differs = 0
    for data, peer in cases:
        mask = data["mask"]
        if beyond_the_clamp(data):
            continue
        logp = data["logp"].clone().requires_grad_(True)
        d = data["rollout"] - logp
        extra = (0.1 * (d.expm1() - d) * ((logp - data["old"]).exp() - 1))[mask].sum() / mask.sum()
        extra.backward()
        ours, gradient = loss(data, **LOSSES["kl"])
        value, slope = peer["loss/kl, corrected"]
        assert (ours.loss + extra).item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert_close(gradient + logp.grad, exact(slope), rtol=1e-5, atol=1e-7)
        differs += abs(extra.item()) > 1e-4
    assert differs > 0
