"""Planted truths come back in words and numbers; the null is not claimed; what cannot be said says why."""

import json
import re
import shutil

import numpy as np
import pytest

from alpkit import analysis
from alpkit.analysis.pairs import pairs
from alpkit.analysis.seeds.verdicts import verdicts
from tests.support.synthetic_grid import SPIKE, write_grid


def by_pair(summary):
    return {(f["arm"], f["control"]): f for f in summary["findings"]}


def claims(finding):
    return {claim["topic"]: claim for claim in finding["claims"]}


@pytest.fixture(scope="module")
def found(report):
    return by_pair(report.summary)


def test_the_heavy_tail_is_found_with_its_size(report, found):
    heavy = claims(found["seq-bypass", "grpo"])["tail heaviness"]
    assert heavy["state"] == "changed"
    own = report.summary["arms"]["seq-bypass"]["tails"]["token/right"]
    other = report.summary["arms"]["grpo"]["tails"]["token/right"]
    assert own["khat"] == pytest.approx(0.9, abs=0.15)
    assert other["khat"] == pytest.approx(0.3, abs=0.15)
    assert own["khat_low"] > other["khat_high"]
    assert f"k̂ of the recorded ratio: tokens {own['khat']:.2f} [" in heavy["words"]
    assert f"; grpo {other['khat']:.2f} [" in heavy["words"]
    assert "], high;" in heavy["words"]
    assert "High: means of such ratios cannot be trusted." in heavy["words"]
    lighter = claims(found["seq-alp", "seq-bypass"])["tail heaviness"]
    assert lighter["state"] == "changed"
    assert re.search(r"k̂ of the token ratio -0\.2\d+ \[", lighter["words"])


def test_the_spike_is_found_at_its_step(report, found):
    arm, seed, step = SPIKE
    words = claims(found[arm, "grpo"])["KL spikes"]["words"]
    assert f"1 in 72 judged steps, 14 per 1,000 (step {step} of seed {seed}, z = 11.5)" in words
    assert "grpo: none in 72" in words
    rows = report.summary["spikes"]
    assert [(r["arm"], r["seed"], r["step"]) for r in rows] == [SPIKE]
    text = (report.folder / "spikes.md").read_text()
    # Its share, its token, and the gradient norm before, at and after it.
    assert "62 %" in text
    assert "'7' (+4.20)" in text
    at = float(re.search(r"→ (\d+\.\d+) →", text)[1])
    assert at > 4


def test_the_reward_difference_is_found_with_its_size(found):
    reward = claims(found["seq-alp", "seq-bypass"])["final performance"]
    assert reward["state"] == "changed"
    # The planted curve reaches 0.1 at the last step: its mean over the last ten is 0.1 * 35.5 / 40.
    size = float(re.search(r"Final reward ([+-][\d.]+)", reward["words"])[1])
    assert size == pytest.approx(0.1 * 35.5 / 40, abs=0.01)


def test_the_null_pair_is_not_claimed(found):
    finding = found["token-tis", "grpo"]
    assert {claim["state"] for claim in finding["claims"]} == {"not told apart"}
    for claim in finding["claims"]:
        assert "Four times in five these 3 seeds would find a difference of" in claim["words"]


def test_no_arm_is_ranked(report):
    text = (report.folder / "report.md").read_text()
    assert all(f"### {arm} against" in text for arm in ("token-tis", "seq-mis", "seq-alp"))
    assert not re.search(r"\b(best|winner|wins|outperforms|significant)\b", text)


def test_what_limits_a_finding_is_said(found):
    assert any(
        limit.startswith(
            "Confounded: seq-bypass and grpo differ in denominator, ratio level and clip band"
        )
        for limit in found["seq-bypass", "grpo"]["limits"]
    )
    assert any("touched no token" in limit for limit in found["seq-mis", "grpo"]["limits"])
    assert found["seq-alp", "seq-bypass"]["limits"] == []
    assert found["token-tis", "grpo"]["limits"] == []


def test_flat_tails_and_short_runs_are_said(tmp_path, words_only):
    folder = write_grid(
        tmp_path, name="flat", arms=("grpo", "token-tis"), seeds=(0, 1, 2), steps=10
    )
    for path in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(
                json.dumps({k: v for k, v in x.items() if "khat" not in k}) + "\n" for x in lines
            )
        )
    for path in folder.glob("0[01]*/records"):
        shutil.rmtree(path)
    report = analysis.analyze("flat", root=tmp_path)
    finding = by_pair(report.summary)["token-tis", "grpo"]
    tails, spikes = claims(finding)["tail heaviness"], claims(finding)["KL spikes"]
    assert tails["state"] == spikes["state"] == "cannot be said"
    assert tails["words"] == "No shared finished seed has k̂ of the token ratio."
    text = " ".join(finding["limits"])
    assert "token-tis: no token records" in text
    assert "too short for the spike detector" in text


def test_two_seeds_and_lonely_arms_are_said(small_root, words_only):
    report = analysis.analyze("small", root=small_root)
    finding = by_pair(report.summary)["token-tis", "grpo"]
    assert {c["state"] for c in finding["claims"]} == {"cannot be said"}
    # Without the GRPO arm there is nothing to compare with.
    path = small_root / "runs/small/grid.json"
    manifest = json.loads(path.read_text())
    manifest |= {"cells": [c for c in manifest["cells"] if c["arm"] != "grpo"], "controls": {}}
    path.write_text(json.dumps(manifest))
    alone = analysis.analyze("small", root=small_root)
    assert alone.summary["findings"] == []
    assert (
        "One arm: there is nothing to compare it with" in (alone.folder / "report.md").read_text()
    )


@pytest.mark.slow
def test_of_200_null_grids_on_disk_at_most_16_claim_anything(tmp_path):
    rng = np.random.default_rng(7)
    claimed = 0
    for grid in range(200):
        seeds = range(grid * 10, grid * 10 + int(rng.integers(3, 9)))
        arms = ("grpo", "token-tis", "seq-mis")
        write_grid(tmp_path / str(grid), arms=arms, seeds=seeds, steps=20, records=False)
        frame = analysis.load("synthetic", root=tmp_path / str(grid), strict=False)
        found = verdicts(frame.cells, [(p.arm, p.control) for p in pairs(frame)])
        assert sum(v.tested for v in found) >= 10
        claimed += any(v.beyond_noise for v in found)
    print(f"{claimed} of 200 null grids claim something")
    assert claimed <= 16
