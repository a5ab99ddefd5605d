"""The noise under torch.compile with the default backend, which builds C++: slow, and skipped without a compiler."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PerturbationConfig
from alpkit.policy.perturbation import LayerwisePerturbation
from tests.support.tiny_models import tiny_gpt2

TOKENS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("site", ["layer_input", "attention_output", "mlp_output"])
def test_inductor_blocks_run_with_the_same_noise(site):
    torch._dynamo.reset()
    model = tiny_gpt2()
    perturbation = LayerwisePerturbation(model, PerturbationConfig(site=site, sigma={"init": 0.1}))

    def run():
        model.zero_grad()
        perturbation.log_sigma.grad = None
        with perturbation.active((0, 1, 2)):
            loss = model(input_ids=TOKENS).logits.log_softmax(-1)[..., 3].sum()
        loss.backward()
        grads = [p.grad.clone() for p in model.parameters()]
        return [loss.detach(), perturbation.log_sigma.grad.clone(), *grads]

    plain = run()
    for layer in model.transformer.h:
        layer.compile()
    for got, expected in zip(run(), plain, strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-3)
