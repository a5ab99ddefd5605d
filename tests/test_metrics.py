"""The metric list is closed, documented, and the committed page is the generated one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alpkit import metrics
from alpkit.errors import TrackingError

ROOT = Path(__file__).parents[1]
EMITTED = """
reward/mean reward/std reward/solved_all reward/solved_none response/length_mean response/length_max
response/finished train/loss train/grad_norm train/grad_norm_max train/entropy train/skipped_updates
eval/greedy eval/avg_at_k eval/pass_at_k ratio/raw/token/width kl/k1 kl/k2 kl/k3 kl/k3_max kl/spike
kl/spike_z receipt/clipped_low receipt/clipped_high receipt/dual_clipped receipt/truncated
receipt/raised receipt/masked receipt/saturated receipt/weight_removed receipt/surviving sigma/mean
sigma/min sigma/max sigma/layer_00 sigma/layer_27 sigma/layer_100 noise/realised_std
noise/realised_ratio noise/to_rms noise/signal_to_noise sigma/grad_norm sigma/grad_norm/layer_00
noise/realised_std/layer_03 noise/to_rms/layer_12 noise/signal_to_noise/layer_01
probe/gap_mean probe/gap_max policy/lag nonfinite/rollout_logp
nonfinite/grad_norm time/rollout time/logp_old time/update time/diagnostics time/sync time/eval
""".split()
STATS = """mean std min max p01 p02 p50 p98 p99 p999 ess chi2 hill_right hill_left khat_right
khat_left top1_share saturated"""


def test_every_key_that_the_trainer_emits_is_listed():
    family = [
        f"ratio/{kind}/{level}/{stat}"
        for kind in "raw mismatch staleness perturbation loss applied".split()
        for level in "token geometric product".split()
        for stat in STATS.split()
    ]
    assert len(family) == 324
    metrics.check_keys([*EMITTED, *family])
    metrics.check_keys([])


@pytest.mark.parametrize(
    ("unknown", "closest"),
    [
        ("kl/k33", "kl/k3"),
        ("ratio/raw/tokens/p98", "ratio/raw/token/p98"),
        ("ratio/mismatch/token/width", None),
        ("sigma/layer_1", "sigma/layer_00"),
        ("sigma/layer_007", "sigma/layer_00"),
        ("Reward/mean", "reward/mean"),
        ("", None),
    ],
)
def test_an_unknown_key_is_named_with_its_closest_neighbour(unknown, closest):
    with pytest.raises(TrackingError) as caught:
        metrics.check_keys(["reward/mean", unknown])
    assert repr(unknown) in caught.value.what
    if closest:
        assert f"did you mean {closest!r}" in caught.value.fix


def test_a_family_member_says_which_ratio_which_level_and_which_space():
    metric = metrics.describe("ratio/staleness/product/p98")
    assert metric.key == "ratio/staleness/product/p98"
    assert metric.unit == "nats"
    for part in ("98 %", "log ratio, in nats", "pi_theta / pi_old", "summed", "counts once"):
        assert part in metric.definition
    for stat in "mean std min max p01 p02 p50 p98 p99 p999".split():
        assert "log ratio, in nats" in metrics.describe(f"ratio/raw/token/{stat}").definition
    assert metrics.describe("sigma/layer_07").key == "sigma/layer_07"


def test_the_committed_page_is_the_generated_one_and_covers_every_key():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == metrics.markdown()
    for key in EMITTED:
        row = re.sub(r"layer_\d+", "layer_{nn}", key)
        assert f"`{row}`" in page, key
    for stat in STATS.split():
        assert f"`ratio/{{kind}}/{{level}}/{stat}`" in page


def test_every_metric_is_defined_and_read_and_its_key_is_well_formed():
    listed = [metrics.describe(key) for key in EMITTED]
    for metric in [*listed, *metrics.RATIO_STATS.values()]:
        assert metric.unit, metric
        assert len(metric.definition) > 10, metric
        assert len(metric.reading) > 1, metric
    for metric in listed:
        assert re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+){1,3}", metric.key)


def test_the_list_imports_nothing_heavy_and_prints_itself():
    code = (
        "import sys, alpkit.metrics; "
        "heavy = {'torch', 'pandas', 'numpy', 'pyarrow', 'mlflow'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    printed = subprocess.run(
        [sys.executable, "-m", "alpkit.metrics"], check=True, capture_output=True, text=True
    )
    assert printed.stdout == metrics.markdown()


def test_a_score_is_the_mean_of_the_last_steps_and_of_evaluations_enough():
    assert metrics.scored(range(41), 40) == list(range(31, 41))
    # Evaluations every ten steps: one falls into the last ten, so the last three count.
    assert metrics.scored([0, 10, 20, 30, 40], 40, at_least=3) == [20, 30, 40]
    assert metrics.scored(range(0, 41, 2), 40, at_least=3) == [32, 34, 36, 38, 40]
    # A run that is over in four steps has them all; the evaluation before training is none of them.
    assert metrics.scored(range(5), 4, at_least=3) == [1, 2, 3, 4]
    assert metrics.scored([0], 40, at_least=3) == []
    # Steps that logged nothing of late leave no score.
    assert metrics.scored([1, 2, 3], 40) == []
