"""Speed metrics: operations counted by hand on a real model, seconds that are given, a limit that is one."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alpkit.policy.attention import Packing
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.shapes import shape_of
from alpkit.rollout import Request, Response, collate
from alpkit.trainer.batches import Batch, cut
from alpkit.trainer.clock import Clock
from alpkit.trainer.speed import Speed, Work, matmul_limit, speed_of
from tests.support.tiny_models import tiny

LENGTHS = ((3, 9), (5, 9), (2, 4))


def micros(tokens=100):
    """The batch as the trainer cuts it."""
    return [micro for part in cut(a_batch(), updates=1, tokens=tokens) for micro in part]


def a_batch():
    rollout = collate(
        [Request(tuple(range(1, n + 1)), 0) for n, _ in LENGTHS],
        [Response(tuple(range(1, m + 1)), (0.0,) * m, "stop") for _, m in LENGTHS],
        prompt=range(len(LENGTHS)),
        pad_id=0,
        policy_version=0,
    )
    zeros = torch.zeros(len(LENGTHS))
    return Batch(1, rollout, (), rollout.response, zeros, zeros)


def test_work_counts_real_tokens_and_the_pairs_that_see_each_other():
    whole = Work(tokens=32, pairs=78 + 105 + 21, predictions=22)
    assert Work.of(micros()) == whole
    assert len(micros(20)) > 1
    assert Work.of(micros(20)) == whole  # however they were cut


def test_operations_are_those_that_a_counter_sees():
    model = tiny("llama", intermediate_size=64, tie_word_embeddings=False)
    # A head with a hook takes the ordinary way, every product of which the counter knows.
    model.get_output_embeddings().register_forward_hook(lambda *_: None)
    rollout = a_batch().rollout
    with FlopCounterMode(display=False) as counter:
        response_logprobs(
            model, rollout.tokens, rollout.attention, rollout.response, packing=Packing()
        ).logp.sum().backward()
    work, shape = Work.of(micros()), shape_of(model.config.to_dict())
    # The counter takes attention's kernel for a full square of padded rows, if it knows the kernel at all.
    no_attention = 3 * (
        work.tokens * shape.flops_per_token() + work.predictions * shape.flops_per_prediction()
    )
    attention = sum(
        count
        for name, count in counter.get_flop_counts()["Global"].items()
        if "attention" in str(name)
    )
    assert counter.get_total_flops() - attention == no_attention
    assert work.flops(shape) - no_attention == 3 * 4 * 3 * 32 * work.pairs


def test_share_and_rate_follow_from_seconds():
    shape = shape_of(tiny("llama").config.to_dict())
    work, clock = Work(100, 1000, 50), Clock()
    clock.start -= 10.0
    clock.seconds["update"] = 2.0
    found = Speed(shape, limit=work.flops(shape) / 2.0).metrics(work, clock)
    assert found["perf/mfu"] == pytest.approx(1.0)
    assert found["perf/tokens_per_second"] == pytest.approx(10.0, rel=1e-2)
    twice = Speed(shape, limit=work.flops(shape) / 2.0, draws=2).metrics(work, clock)
    assert twice["perf/mfu"] == pytest.approx(2.0)


def test_a_mixture_of_experts_has_a_rate_and_no_share():
    speed = speed_of(tiny("mixtral"), torch.float32, draws=1)
    clock = Clock()
    clock.seconds["update"] = 1.0
    assert set(speed.metrics(Work(1, 1, 1), clock)) == {"perf/tokens_per_second"}


def test_the_limit_is_a_rate_that_this_machine_can_have():
    limit = matmul_limit(torch.device("cpu"), torch.float32, torch.get_num_threads())
    assert 1e9 < limit < 1e14
