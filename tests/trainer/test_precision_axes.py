"""dtype and head: every forward of the trained policy rounds alike, and float16 trains like float32."""

import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alpkit.config import RunConfig
from alpkit.policy.autocast import Precision
from alpkit.policy.loading import load_policy
from alpkit.rollout import Request
from alpkit.rollout.hf import generate, score
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.runs.steps import CellTracker
from alpkit.trainer import start_line, state, train_cell
from alpkit.trainer.collect import held_out_scores
from alpkit.trainer.loss_scale import LossScale
from tests.trainer.test_train_cell import config, train, without_times

PROMPTS = [tuple(3 + (i + j) % 10 for j in range(6)) for i in range(12)]


def test_the_scale_halves_at_an_overflow_and_doubles_after_patience():
    scale = LossScale(enabled=True, start=8.0, patience=3, largest=16.0)
    seen = []
    for finite in (True, True, False, True, True, True, True, True, True, True, True, True):
        scale.update(finite=finite)
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
    assert scale.metrics() == {"train/loss_scale": 16.0, "train/overflows": 1.0}
    assert scale.metrics()["train/overflows"] == 0  # since the last look
    for _ in range(9):
        scale.update(finite=False)
    assert scale.value == 1.0


def test_unscaling_is_exact_and_a_disabled_scale_touches_nothing():
    weight = torch.nn.Parameter(torch.zeros(3))
    gradient = torch.tensor([1e-3, 1.7, -300.0])
    for scale in (LossScale(enabled=True), LossScale(enabled=False)):
        weight.grad = gradient * scale.value
        scale.unscale([weight, torch.nn.Parameter(torch.zeros(1))])
        assert torch.equal(weight.grad, gradient)
        assert torch.equal(scale.slope(gradient * scale.value), gradient)
    scale.update(finite=False)
    assert scale.value == 1.0
    assert scale.metrics() == {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One float32 and one float16 run of a perturbed arm: {dtype: (folder, metrics)}."""
    found = {}
    for dtype in ("float32", "float16"):
        folder = tmp_path_factory.mktemp(dtype)
        found[dtype] = folder, train(folder, config("seq-alp", dtype=dtype))
    return found


def test_float16_takes_float32s_steps(runs):
    """Within the rounding of float16: loss 1 %, gradients 2 %; log sigma's is logged without the scale."""
    low, full = runs["float16"][1][1], runs["float32"][1][1]
    assert low["train/loss"] == pytest.approx(full["train/loss"], rel=0.01)
    assert low["train/skipped_updates"] == 0
    assert low["train/grad_norm"] == pytest.approx(full["train/grad_norm"], rel=0.02)
    assert low["sigma/grad_norm"] == pytest.approx(full["sigma/grad_norm"], rel=0.02)
    assert low["train/loss_scale"] == 2.0**16
    assert "train/loss_scale" not in full
    weights = load_file(runs["float16"][0] / "checkpoint/step-000002/model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_an_overflow_skips_the_update_halves_the_scale_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        LossScale.__init__,
        "__kwdefaults__",
        {**LossScale.__init__.__kwdefaults__, "start": 2.0**30},
    )
    metrics = train(tmp_path, config("grpo", dtype="float16"))
    skipped = [metrics[step]["train/overflows"] for step in (1, 2)]
    assert sum(skipped) >= 4
    assert metrics[2]["train/loss_scale"] == 2.0 ** (30 - sum(skipped))
    assert [metrics[step]["train/skipped_updates"] for step in (1, 2)] == skipped
    assert metrics[1]["nonfinite/grad_norm"] == skipped[0]


def test_float16_resumes_to_the_bit_with_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(
        LossScale.__init__,
        "__kwdefaults__",
        {**LossScale.__init__.__kwdefaults__, "start": 2.0**21, "patience": 5},
    )
    long = config("seq-alp", dtype="float16", head="float32", train={"steps": 3})
    whole = train(tmp_path / "whole", long)
    assert whole[1]["train/loss_scale"] != 2.0**21  # the scale has moved before the stop

    class Killed(RuntimeError):
        pass

    class Interrupted(CellTracker):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 2:
                raise Killed

    folder = tmp_path / "stopped"
    with pytest.raises(Killed):
        train_cell(long, folder, Interrupted(folder))
    assert without_times(train(folder, long)) == without_times(whole)
    paths = [tmp_path / f / "checkpoint/step-000003" for f in ("whole", "stopped")]
    weights = [load_file(path / "model.safetensors") for path in paths]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    model = load_policy(long.model).model
    kept = [load_checkpoint(path, model)["loss_scale"] for path in paths]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_float32_head_rounds_less(dtype):
    model = load_policy("builtin:tiny-addition").model
    responses = [(prompt, (5, 6, 7, 1)) for prompt in PROMPTS]

    def logp(precision):
        with torch.no_grad():
            rows = score(model, responses, pad_id=0, temperature=1.0, precision=precision)
        return torch.tensor(rows)

    exact = logp(Precision())
    with_head, without = (logp(Precision(dtype, head)) for head in ("autocast", "float32"))
    # The head's own float32 arithmetic on the last state of an autocast backbone.
    hooked = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda module, args, out: hooked.append((args[0].dtype, out.dtype))
    )
    assert torch.equal(logp(Precision(dtype, "float32")), without)
    handle.remove()
    assert hooked == [(torch.float32, torch.float32)]
    assert not torch.equal(with_head, without)
    assert (without - exact).abs().mean() < (with_head - exact).abs().mean()


def test_evaluation_and_probe_run_as_the_updates_do(tmp_path, monkeypatch):
    """Both are asked for what autocast they ran under, on a run in float16 with a float32 head."""
    run = state.set_up(config("grpo", dtype="float16", head="float32"), tmp_path)
    seen = []
    run.policy.model.model.layers[0].mlp.register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    assert "dtype float16, head float32, sampler hf, rollout/rounded_share 1.000" in start_line(run)
    held_out_scores(run, 0)
    assert set(seen) == {torch.float16}
    seen.clear()
    run.probe.check(run.sampler, run.policy.model)
    assert set(seen) == {torch.float16}
    assert run.probe.precision == run.precision == Precision("float16", "float32")
    run.sampler.close()
    run.records.close()


def test_generated_log_probs_are_those_of_the_same_precision():
    model = load_policy("builtin:tiny-addition").model
    for precision in (Precision("bfloat16"), Precision("float16", "float32")):
        responses = generate(
            model,
            [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)],
            max_tokens=5,
            temperature=1.0,
            stop_ids=(1,),
            pad_id=0,
            precision=precision,
        )
        pairs = [(p, r.token_ids) for p, r in zip(PROMPTS, responses, strict=True)]
        with torch.no_grad():
            scored = score(model, pairs, pad_id=0, temperature=1.0, precision=precision)
        gaps = [
            abs(a - b)
            for r, row in zip(responses, scored, strict=True)
            for a, b in zip(r.logp, row, strict=True)
        ]
        # A cached step and a whole row round differently, by a few units in bfloat16's last place.
        assert max(gaps) < 0.3
        assert math.fsum(gaps) / len(gaps) < 0.03


def test_a_head_that_makes_no_difference_is_no_other_cell():
    plain = RunConfig()
    assert RunConfig(head="float32").cell_id() == plain.cell_id()
    low = RunConfig(dtype="bfloat16")
    assert RunConfig(dtype="bfloat16", head="float32").cell_id() != low.cell_id()
    engines = [
        RunConfig.model_validate({"rollout": {"engine": "vllm", "dtype": d, "head_dtype": h}})
        for d in ("float32", "bfloat16")
        for h in ("auto", "float32")
    ]
    assert len({engine.cell_id() for engine in engines}) == 3
    with pytest.raises(ValidationError, match="head"):
        RunConfig(head="float16")
