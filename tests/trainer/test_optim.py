"""Learning rates against transformers' schedules, and 8-bit AdamW against torch's AdamW."""

import sys

import pytest
import torch
from transformers import get_scheduler

from alpkit.config.perturbation import PerturbationConfig
from alpkit.config.run import TrainConfig
from alpkit.errors import PrerequisiteError
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.trainer.optim import LearningRates, build_optimizer, schedule
from tests.support.tiny_models import tiny

BIG = {
    "vocab_size": 300,
    "hidden_size": 64,
}  # its embedding has more than bitsandbytes' 4096 numbers


def factors(**settings):
    train = TrainConfig(updates_per_rollout=4, **settings)
    return [schedule(train, update) for update in range(4 * train.steps)]


@pytest.mark.parametrize("shape", ["constant_with_warmup", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_rates_are_those_of_transformers(shape, warmup):
    """transformers begins its warm-up at a rate of 0; ours takes its place after one update, and no update is lost."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_scheduler(shape, optimizer, num_warmup_steps=4 * warmup, num_training_steps=4 * 6)
    theirs = []
    for _ in range(24):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    ours = factors(steps=6, warmup=warmup, schedule=shape.removesuffix("_with_warmup"))
    w = 4 * warmup
    assert ours[w:] == pytest.approx(theirs[w:], abs=1e-12)
    assert ours[:w] == pytest.approx([*theirs[1:w], 1.0] if w else [], abs=1e-12)
    assert min(ours) > 0


def test_without_a_schedule_every_rate_is_the_full_one():
    assert factors(steps=3) == [1.0] * 12


def test_both_groups_follow_and_the_place_in_the_run_is_all_that_counts():
    train = TrainConfig(steps=4, updates_per_rollout=2, lr=0.5, schedule="linear")
    model = tiny("llama")
    noise = LayerwisePerturbation(model, PerturbationConfig(sigma={"init": 0.1, "lr": 0.25}))
    optimizer = build_optimizer(train, model, noise)
    rates = LearningRates(train, optimizer)
    rates.set(optimizer, step=2, update=0)
    rates.set(optimizer, step=2, update=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5 * 5 / 8, 0.25 * 5 / 8]
    assert rates.metrics() == {"train/lr": 0.5 * 5 / 8, "receipt/lr_scale": (6 / 8 + 5 / 8) / 2}
    later = build_optimizer(train, model, noise)
    later.load_state_dict(optimizer.state_dict())
    again = LearningRates(train, build_optimizer(train, model, noise))
    again.set(later, step=4, update=1)
    assert [group["lr"] for group in later.param_groups] == [0.5 / 8, 0.25 / 8]


def test_a_constant_rate_has_no_receipt():
    train = TrainConfig(lr=3e-5)
    optimizer = build_optimizer(train, tiny("llama"), None)
    rates = LearningRates(train, optimizer)
    for update in range(16):
        rates.set(optimizer, step=1, update=update)
    assert rates.metrics() == {"train/lr": 3e-5}


def trained(kind, steps=6, *, stop=None):
    """A model after some steps on one loss; with `stop`, through a saved and loaded state."""
    model = tiny("llama", **BIG)
    per_word = PerturbationConfig(
        site="logits", sigma={"init": 0.1, "per": "vocab", "lr": 0.01}, layers="all"
    )
    noise = LayerwisePerturbation(model, per_word)
    train = TrainConfig(optimizer=kind, lr=1e-2)
    optimizer = build_optimizer(train, model, noise)
    tokens = torch.arange(40)[None] % 300
    for step in range(steps):
        if step == stop:
            state = optimizer.state_dict()
            optimizer = build_optimizer(train, model, noise)
            optimizer.load_state_dict(state)
        logits = model(input_ids=tokens).logits
        loss = logits.logsumexp(-1).mean() + noise.log_sigma.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach() for p in (*model.parameters(), noise.log_sigma)], optimizer


def test_eight_bits_go_where_32_go():
    pytest.importorskip("bitsandbytes")
    start, _ = trained("adamw", 0)
    full, _ = trained("adamw")
    short, optimizer = trained("adamw_8bit")
    moved = torch.cat([(a - b).flatten() for a, b in zip(full, start, strict=True)])
    apart = torch.cat([(a - b).flatten() for a, b in zip(full, short, strict=True)])
    # Six steps of 0.01 a number; a byte's rounding of the moments moves few of them by more than a step.
    assert moved.abs().mean() > 0.02
    assert 0 < apart.abs().mean() < 0.1 * moved.abs().mean()
    bits = [
        {optimizer.state[p]["state1"].dtype for p in group["params"] if p in optimizer.state}
        for group in optimizer.param_groups
    ]
    # Small tensors, and log sigma whatever its size, have float32 moments.
    assert bits == [{torch.uint8, torch.float32}, {torch.float32}]
    torch.testing.assert_close(full[-1], short[-1], atol=1e-6, rtol=1e-6)
    large = max(optimizer.state, key=lambda p: p.numel())
    kept = sum(
        optimizer.state[large][name].nbytes for name in ("state1", "state2", "absmax1", "absmax2")
    )
    assert kept < 2.1 * large.numel()  # 8 bytes a number in AdamW


def test_an_eight_bit_state_goes_on_bit_for_bit():
    pytest.importorskip("bitsandbytes")
    whole, _ = trained("adamw_8bit")
    resumed, _ = trained("adamw_8bit", stop=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_without_bitsandbytes_eight_bits_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="8-bit optimizer") as caught:
        build_optimizer(TrainConfig(optimizer="adamw_8bit"), tiny("llama"), None)
    assert "alpkit[8bit]" in caught.value.fix
