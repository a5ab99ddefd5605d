"""Ours against verl 0.9's correction helper, metrics, KL and registered losses.

The default run checks four stored batches (`golden/verl.json`, with versions); `make oracle` draws 200
batches afresh and asks the installed verl. Known quirks of verl are compared as what they are.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import ObjectiveConfig
from alpkit.diagnostics import divergences
from alpkit.objective import mismatch_correction, policy_loss, reference_kl

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WEIGHTS = {
    "token_tis": {"action": "truncate", "upper": 2.0},
    "token_icepop": {"action": "mask", "lower": 0.5, "upper": 5.0},
    "product_tis": {"action": "truncate", "level": "product", "upper": 2.0},
    "product_mask": {"action": "mask", "level": "product", "lower": 0.5, "upper": 3.0},
    "token_tis_normalized": {"action": "truncate", "upper": 2.0, "normalize": "batch"},
    "product_tis_normalized": {
        "action": "truncate",
        "level": "product",
        "upper": 2.0,
        "normalize": "batch",
    },
}
# verl#6377: *_k1 bounds are written as ratios and compared with -log w, so that "0.5_5.0" keeps
# w in [0.2, 2]. In nats of k1 that is [log 0.5, log 5].
REJECTIONS = {
    "token_k1": [("k1", "token", math.log(0.5), math.log(5.0))],
    "token_k2": [("k2", "token", None, 0.02)],
    "token_k3": [("k3", "token", None, 0.02)],
    "seq_sum_k1": [("k1", "sum", math.log(0.5), math.log(5.0))],
    "seq_sum_k2": [("k2", "sum", None, 0.2)],
    "seq_sum_k3": [("k3", "sum", None, 0.2)],
    "seq_mean_k1": [("k1", "mean", math.log(0.98), math.log(1.5))],
    "seq_mean_k2": [("k2", "mean", None, 0.02)],
    "seq_mean_k3": [("k3", "mean", None, 0.02)],
    "seq_max_k2": [("k2", "max", None, 0.2)],
    "seq_max_k3": [("k3", "max", None, 0.2)],
    "token_k2,seq_mean_k3": [("k2", "token", None, 0.05), ("k3", "mean", None, 0.02)],
}
LOSSES = {
    "vanilla": {"surrogate": {"epsilon_low": 0.2, "epsilon_high": 0.28, "dual_clip": 3.0}},
    # verl clamps GSPO's log ratio from above only, at 10.
    "gspo": {
        "ratio": {"level": "geometric"},
        "surrogate": {"epsilon_low": 3e-4, "epsilon_high": 4e-4},
        "log_ratio_clamp": [-60, 10],
    },
    "cispo": {"surrogate": {"kind": "cispo", "epsilon_low": 1.0, "epsilon_high": 4.0}},
}
AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "seq-mean-token-sum-norm": "fixed_length_mean",
}
ESTIMATORS = {"k1": "k1", "k2": "k2", "k3": "k3", "k3+": "k3_straight_through"}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(
    scope="module", params=["stored", pytest.param("installed", marks=pytest.mark.oracle)]
)
def cases(request, tmp_path_factory):
    """[(tensors, verl's outputs)]."""
    path = HERE / "golden" / "verl.json"
    if request.param == "installed":
        path = tmp_path_factory.mktemp("verl") / "verl.json"
        subprocess.run(
            [sys.executable, str(HERE / "verl_oracle.py"), "1", "200", str(path)],
            check=True,
            env={"PYTHONPATH": str(ROOT / ".oracle"), "OMP_NUM_THREADS": "1", "PATH": ""},
        )
    found = json.loads(path.read_text())
    assert found["versions"]["verl"].startswith("0.9.")
    return [
        ({key: torch.tensor(value) for key, value in case["inputs"].items()}, case["outputs"])
        for case in found["cases"]
    ]


def ours(data, *, reject=(), weight=None):
    config = ObjectiveConfig(reject=reject, **({"weight": weight} if weight else {}))
    return mismatch_correction(
        logp_old=data["old"],
        logp_rollout=data["rollout"],
        mask=data["mask"],
        weight=config.weight,
        reject=config.reject,
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(cases, name):
    for data, peer in cases:
        mask = data["mask"]
        got = ours(data, weight=WEIGHTS[name]).weight
        if peer[f"weight/{name}"] is None:  # verl 0.9.1 divides by zero when every weight is masked
            assert (got[mask] == 0).all()
            continue
        assert_close(got[mask], torch.tensor(peer[f"weight/{name}"])[mask], **CLOSE)
        if "normalized" not in name:
            # verl's effective sample size is of the weights as applied, never of the raw ones.
            valid = got[mask]
            ess = valid.mean() ** 2 / (valid**2).mean()
            assert ess.item() == pytest.approx(peer[f"ess/{name}"], rel=1e-4)


@pytest.mark.parametrize("name", REJECTIONS)
def test_rejections(cases, name):
    rules = [
        {"statistic": s, "reduce": r, "lower": low, "upper": high}
        for s, r, low, high in REJECTIONS[name]
    ]
    removed = 0
    for data, peer in cases:
        got = ours(data, reject=rules)
        assert torch.equal(got.keep.int(), torch.tensor(peer[f"reject/{name}"]))
        share = (got.receipt["rejected"] / data["mask"].sum()).item()
        assert share == pytest.approx(peer[f"rejected/{name}"], abs=1e-6)
        removed += share
    assert 0 < removed < len(cases)


@pytest.mark.parametrize(("name", "level"), [("token_k1", "token"), ("seq_mean_k1", "geometric")])
def test_k1_bounds_are_mirrored_in_verl(cases, name, level):
    """verl#6377 (closed unmerged): the ratio band that its bounds spell is the reciprocal of the one it keeps."""
    _, _, low, high = REJECTIONS[name][0]
    spelled = {
        "statistic": "ratio",
        "level": level,
        "lower": math.exp(low),
        "upper": math.exp(high),
    }
    mirrored = {**spelled, "lower": math.exp(-high), "upper": math.exp(-low)}
    pairs = [(ours(d, reject=[spelled]).keep, ours(d, reject=[mirrored]).keep) for d, _ in cases]
    peers = [torch.tensor(peer[f"reject/{name}"]).bool() for _, peer in cases]
    assert all(torch.equal(m, p) for (_, m), p in zip(pairs, peers, strict=True))
    assert not all(torch.equal(s, p) for (s, _), p in zip(pairs, peers, strict=True))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_registered_losses_and_their_gradients(cases, name, aggregate):
    config = ObjectiveConfig(**LOSSES[name], aggregate=AGGREGATES[aggregate])
    for data, peer in cases:
        logp = data["logp"].clone().requires_grad_(True)
        out = policy_loss(
            logp=logp,
            logp_old=data["old"],
            logp_rollout=data["rollout"],
            mask=data["mask"],
            advantage=data["advantage"],
            config=config,
        )
        out.loss.backward()
        value, gradient = peer[f"loss/{name}/{aggregate}"]
        assert out.loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert_close(logp.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_estimators(cases, name):
    for data, peer in cases:
        mask = data["mask"]
        got = reference_kl(data["old"] - data["logp"], ESTIMATORS[name])
        value, slope = (torch.tensor(x)[mask] for x in peer[f"kl/{name}"])
        # verl also cuts k3's value at 10, which takes its gradient; ours is cut by the log ratio alone.
        below = value < 10
        assert_close(got.value[mask][below], value[below], rtol=1e-5, atol=1e-6)
        assert_close(got.slope[mask][below], slope[below], rtol=1e-5, atol=1e-6)


def test_metrics(cases):
    for data, peer in cases:
        mask, metrics = data["mask"], peer["metrics"]
        log_ratio = (data["old"] - data["rollout"])[mask].double().numpy()
        sequence = torch.arange(len(mask))[:, None].expand_as(mask)[mask].numpy()
        token = divergences(log_ratio, sequence, level="token")
        assert token["k1"] == pytest.approx(metrics["kl"], rel=1e-4, abs=1e-6)
        if math.isfinite(metrics["k3_kl"]):  # verl's K3 is unclamped: one token makes it infinite
            assert token["k3"] == pytest.approx(metrics["k3_kl"], rel=1e-4, abs=1e-6)
            assert token["chi2"] == pytest.approx(metrics["chi2_token"], rel=1e-4, abs=1e-5)
