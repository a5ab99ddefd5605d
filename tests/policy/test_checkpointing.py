"""Layers that run again in the backward pass: entered twice, with the gradients of layers that do not."""

import pytest
import torch
from torch.testing import assert_close

from alpkit.config.perturbation import PerturbationConfig
from alpkit.errors import ConfigError
from alpkit.policy.attention import Packing
from alpkit.policy.checkpointing import prepare, recomputing
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.sites import decoder_layers
from tests.policy.test_attention import batch, scored
from tests.support.tiny_models import tiny


@pytest.mark.parametrize("packing", [None, Packing()])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_layers_run_twice_and_gradients_stay(architecture, noisy, packing):
    model = tiny(architecture)
    noise = None
    if noisy:
        noise = LayerwisePerturbation(model, PerturbationConfig(sigma={"init": 0.3}))
    wanted = scored(model, packing, noise)
    entered = []
    layers = decoder_layers(model)
    for layer in layers:
        inner = layer.input_layernorm
        inner.register_forward_hook(lambda *_: entered.append(1))
    prepare(model)
    with recomputing(model, True):
        got = scored(model, packing, noise)
    assert len(entered) == 2 * len(layers)
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not any(module.training for module in model.modules())


def test_nothing_runs_twice_without_gradient_or_when_off():
    model = tiny("llama")
    prepare(model)
    entered = []
    decoder_layers(model)[0].input_layernorm.register_forward_hook(lambda *_: entered.append(1))
    with torch.no_grad(), recomputing(model, True):
        response_logprobs(model, *batch())
    with recomputing(model, False):
        scored(model, Packing())
    assert len(entered) == 2


def test_fewer_tensors_are_kept():
    model = tiny("llama", num_hidden_layers=6)
    prepare(model)

    def kept(on):
        sizes = []

        def count(tensor):
            sizes.append(tensor.numel())
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with hooks, recomputing(model, on):
            response_logprobs(model, *batch(), packing=Packing())
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


def test_a_model_that_drops_out_is_refused():
    with pytest.raises(ConfigError, match="drops out activations") as caught:
        prepare(tiny("gpt2"))
    assert "resid_pdrop" in caught.value.what
