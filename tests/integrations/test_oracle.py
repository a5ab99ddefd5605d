"""The plug-ins inside the peers themselves, each in a process with `.oracle` on its path (`make oracle`)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpkit.runs import records

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
pytestmark = pytest.mark.oracle


def run(*command, **more):
    path = os.pathsep.join((str(ROOT / ".oracle"), str(ROOT)))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_verls_registry_runs_our_losses():
    assert len(run(str(ROOT / "tests" / "support" / "verl_registered.py")).splitlines()) == 7


@pytest.mark.parametrize("file", ["test_trl.py", "test_trl_record.py"])
def test_trls_trainer_runs_our_objective_and_is_recorded(file):
    """The files are skipped where trl cannot be imported; here they must not be."""
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", str(HERE / file))
    assert "skipped" not in out
    assert "passed" in out


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def both_ranks(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_trl_keeps_one_sigma_over_two_processes_and_resumes_it(tmp_path):
    """`accelerate launch`, two CPU processes (gloo): 5 steps of 2 micro-batches, a checkpoint after 3."""
    run(
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", free_port()),
        str(ROOT / "tests" / "support" / "trl_ranks.py"),
        str(tmp_path),
        ACCELERATE_USE_CPU="true",
    )
    first, second = both_ranks(tmp_path)
    for case in ("whole", "again", "two"):
        assert first[case]["log_sigma"] == second[case]["log_sigma"]
        assert first[case]["model"] == second[case]["model"]
    # The ranks' own gradients differ, and what they step with is the mean.
    assert len(first["own"]) == 5
    for ours, theirs, mean in zip(first["own"], second["own"], first["reduced"], strict=True):
        assert ours != theirs
        np.testing.assert_allclose(np.add(ours, theirs) / 2, mean, rtol=1e-5, atol=1e-9)
    assert first["reduced"] == second["reduced"]
    assert max(abs(s - np.log(0.05)) for s in first["whole"]["log_sigma"]) > 0.01
    # One batch of one model: equal without noise, different under it.
    assert first["whole"]["clean"] == second["whole"]["clean"]
    assert np.abs(np.subtract(first["whole"]["noisy"], second["whole"]["noisy"])).min() > 1e-4
    # Resumed from step 3, the weights and sigma are the uninterrupted run's to the bit.
    assert first["again"] == first["whole"]
    assert second["again"] == second["whole"]
    assert first["two"]["model"] != first["whole"]["model"]
    # Rank 0 wrote both ranks' rows: 2 micro-batches of 2 rows on each.
    tokens = records.read(tmp_path / "runs" / "ranks" / "plain")
    assert tokens.groupby("step")["sample"].nunique().tolist() == [8] * 5
    rewards = tokens.drop_duplicates(["step", "sample"])
    assert rewards.groupby(["step", "prompt"])["advantage"].sum().abs().max() < 1e-4


def test_verls_actor_trains_under_noise_on_two_ranks(tmp_path):
    """verl's FSDP engines on CPU (gloo), against the same three rollouts in one process with alpkit alone."""
    run(
        *("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()),
        str(ROOT / "tests" / "support" / "verl_ranks.py"),
        str(tmp_path),
    )
    first, second = both_ranks(tmp_path)
    assert len(first) == 3
    for case, ours in first.items():
        theirs = second[case]
        assert ours["engine"] == "NoisyFSDPEngine"
        assert ours["log_sigma"] == theirs["log_sigma"]
        assert all(a != b for a, b in zip(ours["own"], theirs["own"], strict=True))
        # float32 sums in another order; the weights moved by 6e-3.
        assert ours["weight_error"] < 5e-5 < 1e-3 < ours["weight_moved"]
        assert ours["sigma_error"] < 1e-5
        np.testing.assert_allclose(ours["norms"], ours["expected_norms"], rtol=1e-4)
        assert ours["resumed_error"] == 0
        assert ours["resumed_sigma"] == ours["log_sigma"]
        # log pi_old is the plain model's before any update, and asking again gives it again.
        assert ours["infer_repeats"]
        assert ours["infer_error"] < 1e-5
        assert ours["logged"] == [f"alpkit/sigma/{name}" for name in ("max", "mean", "min")]
