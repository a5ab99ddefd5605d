"""Every site on every architecture: the noise arrives where it is said to, and nowhere below."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from alpkit.config import PerturbationConfig
from alpkit.errors import ConfigError
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.noise import NoiseStream
from alpkit.policy.perturbation.sites import find_sites
from alpkit.policy.perturbation.token_layout import TokenLayout
from tests.support.tiny_models import ARCHITECTURES, tiny, tiny_gpt2

SITES = ("layer_input", "attention_output", "mlp_output", "embedding", "final_hidden", "logits")
TOKENS = torch.randint(1, 20, (2, 7), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(TOKENS, dtype=torch.bool)
MASK[1, :2] = False
KEY = (0, 1, 2)


def forward(model):
    return model(input_ids=TOKENS, attention_mask=MASK.long(), use_cache=False)


def noise_at(site, layer, like):
    layout = TokenLayout(tuple(TOKENS.shape), [4, 2], MASK)
    return NoiseStream((*KEY, 0), site, layer, layout, "normal").draw(like)


def first(output):
    if isinstance(output, torch.Tensor):
        return output.detach()
    return first(output[0] if isinstance(output, tuple) else output.last_hidden_state)


def module_of(sites, site, layer):
    return {
        "attention_output": lambda: sites.attention(layer),
        "mlp_output": lambda: sites.mlp(layer),
        "embedding": sites.embedding,
        "final_hidden": lambda: sites.decoder,
        "logits": sites.head,
    }[site]()


class Inputs:
    """Hidden states that enter every layer, seen after all other hooks."""

    def __init__(self, sites):
        self.seen = {}
        for index, layer in enumerate(sites.layers):
            layer.register_forward_pre_hook(self._keep(index), with_kwargs=True)

    def _keep(self, index):
        def hook(module, args, kwargs):
            self.seen[index] = (args[0] if args else kwargs["hidden_states"]).detach()

        return hook


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("site", SITES)
def test_the_noise_arrives_at_its_site_and_leaves_no_trace(architecture, site):
    """By value where it is added; inputs of the layers up to there 0 ulp; removed: logits 0 ulp."""
    model = tiny(architecture)
    sites = find_sites(model)
    clean_inputs = Inputs(sites)
    outputs = {}
    if site != "layer_input":
        module_of(sites, site, 1).register_forward_hook(
            lambda m, a, o: outputs.update(clean=first(o))
        )
    before = forward(model).logits.detach()
    clean = dict(clean_inputs.seen)

    perturbation = LayerwisePerturbation(
        model, PerturbationConfig(site=site, layers=[1], sigma={"init": 0.1})
    )
    noisy_inputs = Inputs(sites)
    if site != "layer_input":
        module_of(sites, site, 1).register_forward_hook(
            lambda m, a, o: outputs.update(noisy=first(o))
        )
    assert torch.equal(forward(model).logits, before)
    with perturbation.active(KEY, sample=[4, 2], mask=MASK), torch.no_grad():
        noisy = forward(model).logits
    assert not torch.equal(noisy[MASK], before[MASK])

    untouched = {"embedding": 0, "layer_input": 1, "attention_output": 2, "mlp_output": 2}
    for layer in range(untouched.get(site, 3)):
        assert torch.equal(noisy_inputs.seen[layer][MASK], clean[layer][MASK]), layer
    if site == "layer_input":
        got, base, layer = noisy_inputs.seen[1], clean[1], 1
    else:
        got, base = outputs["noisy"], outputs["clean"]
        layer = 1 if site in untouched and site != "embedding" else 0
        got, base = got.view(*TOKENS.shape, -1), base.view(*TOKENS.shape, -1)
    assert_close(got - base, 0.1 * noise_at(site, layer, base), atol=5e-6, rtol=1e-5)
    assert ((got - base)[~MASK] == 0).all()

    perturbation.remove()
    with perturbation.active(KEY, sample=[4, 2], mask=MASK):
        assert torch.equal(forward(model).logits, before)


BEFORE_MLP = {  # the module that reads the residual stream between attention and MLP
    "llama": "post_attention_layernorm",
    "gemma2": "pre_feedforward_layernorm",
    "gemma3_text": "pre_feedforward_layernorm",
    "olmo2": "mlp",
    "glm4": "post_attention_layernorm",
}


@pytest.mark.parametrize("site", ["attention_output", "mlp_output"])
@pytest.mark.parametrize("architecture", BEFORE_MLP)
def test_the_residual_stream_gets_the_noise_as_it_is(architecture, site):
    """Behind a post-norm too: sigma z is added to the stream, not to what a norm rescales after it."""
    model = tiny(architecture)
    layers = find_sites(model).layers
    reader = getattr(layers[1], BEFORE_MLP[architecture]) if site[0] == "a" else layers[2]
    seen = []
    reader.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(args[0].detach()), with_kwargs=True
    )
    config = PerturbationConfig(site=site, layers=[1], sigma={"init": 0.1})
    perturbation = LayerwisePerturbation(model, config)
    with torch.no_grad():
        forward(model)
        with perturbation.active(KEY, sample=[4, 2], mask=MASK):
            forward(model)
    added = 0.1 * noise_at(site, 1, seen[0])
    assert_close((seen[1] - seen[0])[MASK], added[MASK], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("site", SITES)
def test_inside_a_peft_wrapper_the_noise_is_the_same(architecture, site):
    peft = pytest.importorskip("peft")
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "opt": ["q_proj", "fc2"]}
    plain, inner = tiny(architecture), tiny(architecture)
    lora = peft.LoraConfig(r=2, target_modules=targets[architecture], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(inner, lora).eval()
    got = []
    for model in (plain, wrapped):
        names = set(model.state_dict())
        config = PerturbationConfig(site=site, sigma={"init": 0.1})
        perturbation = LayerwisePerturbation(model, config)
        with perturbation.active(KEY, sample=[4, 2], mask=MASK):
            logits = forward(model).logits
            logits.log_softmax(-1)[MASK][:, 3].sum().backward()
        assert set(model.state_dict()) == names
        got.append((logits.detach(), perturbation.log_sigma.grad))
    assert_close(got[1], got[0], atol=1e-5, rtol=1e-5)  # LoRA's B starts at 0: the same function


def test_an_unknown_architecture_says_what_was_looked_for():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = nn.Linear(2, 2)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer()])

    with pytest.raises(ConfigError, match="no decoder layers found in Linear") as caught:
        find_sites(nn.Linear(2, 2))
    assert "looked for a non-empty ModuleList called layers, h, blocks" in str(caught.value)
    cases = {
        "attention_output": "attention_output is not found in layer 0 of Odd",
        "mlp_output": "mlp_output is not found in layer 0 of Odd",
        "embedding": "embedding is not found in Odd",
        "logits": "logits is not found in Odd",
    }
    for site, message in cases.items():
        with pytest.raises(ConfigError, match=message) as caught:
            LayerwisePerturbation(Odd(), PerturbationConfig(site=site))
        assert "looked for" in str(caught.value)
        assert "perturbation.site" in str(caught.value)
    with pytest.raises(ConfigError, match="which has mixer"):
        find_sites(Odd()).mlp(0)


@pytest.mark.parametrize("scale", ["absolute", "rms"])
@pytest.mark.parametrize("per", ["scalar", "vocab"])
@pytest.mark.parametrize("site", SITES)
def test_sigma_gradient_is_the_central_difference_at_every_site(site, per, scale):
    """float64, z frozen by its key, relative 1e-3 (reached: 1e-6)."""
    if per == "vocab" and site != "logits":
        return
    model = tiny_gpt2().double()
    config = PerturbationConfig(site=site, layers=[1], sigma={"init": 0.1, "per": per}, scale=scale)
    perturbation = LayerwisePerturbation(model, config)
    perturbation.log_sigma.data = perturbation.log_sigma.data.double()

    def loss():
        with perturbation.active(KEY, sample=[4, 2], mask=MASK):
            return forward(model).logits.log_softmax(-1)[MASK][:, 3].sum()

    loss().backward()
    step = 1e-5
    assert len(perturbation.log_sigma) == (20 if per == "vocab" else 1)
    for entry in range(len(perturbation.log_sigma)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                perturbation.log_sigma[entry] += sign * step
                values.append(loss().item())
                perturbation.log_sigma[entry] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert perturbation.log_sigma.grad[entry].item() == pytest.approx(numeric, rel=1e-3)


def test_published_windows_have_their_sizes():
    """0-5, 12-17, 23-27 of 28, and one log sigma each."""
    model = tiny("qwen2", num_hidden_layers=28, hidden_size=8, head_dim=4, intermediate_size=8)
    for layers, size in (("early", 6), ("middle", 6), ("late", 5), ("all", 28), ("0-5", 6)):
        perturbation = LayerwisePerturbation(model, PerturbationConfig(layers=layers))
        assert len(perturbation.log_sigma) == len(perturbation.layers) == size
        perturbation.remove()
