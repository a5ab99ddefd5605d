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

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.config.objective import ReferenceKLConfig
from alpkit.diagnostics import divergences, probability_gap
from alpkit.objective import mismatch_correction, policy_loss, reduce_to_level, reference_kl

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
PPO = {"surrogate": {"epsilon_low": 0.2, "epsilon_high": 0.28, "dual_clip": 3.0}}
CURRENT = {"ratio": {"denominator": "current"}, "surrogate": {"kind": "reinforce"}}
LOSSES = {
    "vanilla": PPO,
    "vanilla, token_tis": {**PPO, "weight": WEIGHTS["token_tis"]},
    "vanilla, product_mask": {**PPO, "weight": WEIGHTS["product_mask"]},
    # verl clamps GSPO's log ratio from above only, at 10.
    "gspo": {
        "ratio": {"level": "geometric"},
        "surrogate": {"epsilon_low": 3e-4, "epsilon_high": 4e-4},
        "log_ratio_clamp": [-60, 10],
    },
    "cispo": {"surrogate": {"kind": "cispo", "epsilon_low": 1.0, "epsilon_high": 4.0}},
    "gpg": CURRENT,
    "bypass ppo": {
        **PPO,
        "ratio": {"denominator": "rollout"},
        "reject": [
            {"statistic": "k3", "of": "bypass", "reduce": "mean", "upper": 0.05, "normalizer": "shrink"}
        ],
    },
    "bypass reinforce": {**CURRENT, "weight": {**WEIGHTS["token_tis"], "of": "bypass"}},
    "bypass reinforce, product": {**CURRENT, "weight": {**WEIGHTS["product_tis"], "of": "bypass"}},
    "dppo_tv": PRESETS["dppo-tv"].settings["objective"],
    "sapo": PRESETS["sapo"].settings["objective"],
}  # fmt: skip
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
            [
                sys.executable,
                str(ROOT / "tests" / "support" / "verl_oracle.py"),
                "1",
                "200",
                str(path),
            ],
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


@pytest.mark.parametrize("name", [name for name in WEIGHTS if "normalized" not in name])
def test_weight_metrics(cases, name):
    """verl's statistics of its weights, and ours of the same: the applied weights, never the raw ones."""
    settings = WEIGHTS[name]
    token = settings.get("level", "token") == "token"
    for data, peer in cases:
        if f"is/{name}" not in peer:
            continue
        mask, metrics = data["mask"], peer[f"is/{name}"]
        got = ours(data, weight=settings)
        valid = got.weight[mask].double()
        assert valid.mean().item() == pytest.approx(metrics["mean"], rel=1e-5)
        # verl adds 1e-8 to the mean that it divides by: visible where nearly all weights are near 0.
        ess = (valid.mean() + 1e-8) ** 2 / (valid**2).mean()
        assert ess.item() == pytest.approx(metrics["eff_sample_size"], rel=1e-5)
        log_ratio = reduce_to_level(
            data["old"] - data["rollout"], mask, settings.get("level", "token")
        )
        raw = log_ratio.clamp(-20, 20).exp()
        if token:
            share = (raw[mask] > settings["upper"]).float().mean().item()
            # Of the weights after truncation or masking, in token mode (verl 0.9); of the raw ones below.
            assert metrics["max"] == pytest.approx(valid.max().item(), rel=1e-5)
            assert metrics["min"] == pytest.approx(valid.min().item(), rel=1e-5)
        else:
            share = (raw[:, 0] > settings["upper"]).float().mean().item()
            assert metrics["max"] == pytest.approx(raw[:, 0].max().item(), rel=1e-5)
        assert metrics["ratio_fraction_high"] == pytest.approx(share, abs=1e-6)
        if token and settings["action"] == "truncate":
            counted = got.receipt["truncated"] / got.receipt["tokens"]
            assert counted.item() == pytest.approx(share, abs=1e-6)


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
    # verl's sapo has one aggregate, whatever it is asked for.
    chosen = "seq-mean-token-mean" if name == "sapo" else aggregate
    config = ObjectiveConfig(**{**LOSSES[name], "aggregate": AGGREGATES[chosen]})
    tried = 0
    for data, peer in cases:
        if f"loss/{name}/{aggregate}" not in peer:  # verl failed to make the weights, see above
            continue
        tried += 1
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
        if math.isnan(value):  # verl 0.9: the mean over nothing, where everything is rejected
            assert not out.keep.any()
            assert out.loss.item() == logp.grad.abs().max().item() == 0
            continue
        assert out.loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert_close(logp.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-7)
    assert tried > 0.9 * len(cases)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kl_estimators(cases, name):
    for data, peer in cases:
        mask = data["mask"]
        # verl cuts k3's value at 10, and k3's gradient with it (but not the straight-through one).
        clamp = 10.0 if "k3" in name else None
        config = ReferenceKLConfig(coef=1, estimator=ESTIMATORS[name], value_clamp=clamp)
        got = reference_kl(data["old"] - data["logp"], config)
        value, slope = (torch.tensor(x)[mask] for x in peer[f"kl/{name}"])
        assert_close(got.value[mask], value, rtol=1e-5, atol=1e-6)
        assert_close(got.slope[mask], slope, rtol=1e-5, atol=1e-6)


PPL = {
    "log_ppl_diff": "log_ppl_diff",
    "log_ppl_abs_diff": "log_ppl_diff_abs",
    "log_ppl_diff_max": "log_ppl_diff_max",
    "log_ppl_diff_min": "log_ppl_diff_min",
    "ppl_ratio": "ppl_ratio",
    "kl": "k1",
    "k3_kl": "k3",
}


def test_metrics(cases):
    """verl's off-policy metrics of float64 log-probs, each to 1e-5 of itself."""
    clamped = 0
    for data, peer in cases:
        mask, metrics = data["mask"], peer["metrics"]
        old, rollout = (data[key].double()[mask].numpy() for key in ("old", "rollout"))
        sequence = torch.arange(len(mask))[:, None].expand_as(mask)[mask].numpy()
        token, product = (
            divergences(old - rollout, sequence, level=level) for level in ("token", "product")
        )
        got = {theirs: token[key] for theirs, key in PPL.items()}
        gap = probability_gap(old, rollout, sequence)
        got |= {"training_ppl": gap["ppl"], "rollout_ppl": gap["ppl_rollout"]}
        got |= {"chi2_token": token["chi2"], "chi2_seq": product["chi2"]}
        if token["saturated"] or product["saturated"]:
            # verl clamps log ratios at +-20 inside chi2 alone; ours are never clamped, and counted instead.
            clamped += 1
            del got["chi2_token"], got["chi2_seq"]
        # Its means divide by n + 1e-8, which shows in what is near 0.
        assert got == pytest.approx({key: metrics[key] for key in got}, rel=1e-5, abs=1e-8)
        assert set(metrics) - set(got) <= {
            "training_log_ppl",
            "rollout_log_ppl",
            "chi2_token",
            "chi2_seq",
        }
    assert clamped < len(cases) / 2


def test_a_token_without_a_log_prob_spoils_verls_kl_and_leaves_ours(cases):
    """verl 0.9: -inf in the rollout makes its kl -inf and its K3 infinite or NaN; ours leaves the token out."""
    data, peer = cases[0]
    assert peer["spoiled"]["kl"] == -math.inf
    assert not math.isfinite(peer["spoiled"]["k3_kl"])
    spoiled = {**data, "rollout": data["rollout"].clone()}
    spoiled["rollout"][0, 0] = -torch.inf
    without = {**data, "mask": data["mask"].clone()}
    without["mask"][0, 0] = False
    rule = [{"statistic": "k3", "reduce": "mean", "upper": 0.02}]
    got, expected = ours(spoiled, reject=rule), ours(without, reject=rule)
    assert torch.equal(got.keep, expected.keep)
    assert got.receipt["tokens"] == data["mask"].sum() - 1
