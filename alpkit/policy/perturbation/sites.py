"""Find where noise can go in a causal LM: decoder layers, their attention and MLP, embedding, LM head.

Found by name on any Hugging Face architecture, plain or wrapped by an adapter (PEFT); what is not
found is an error that says what was looked for. Not here: the noise that a hook adds.

    sites = find_sites(model)
    hooks = hook_states(sites, "layer_input", [0, 1], change)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import BaseModelOutput

from alpkit.config.perturbation import Site
from alpkit.errors import ConfigError
from alpkit.policy.perturbation.gate import eager

# Where decoders live on models whose `get_decoder` does not lead to them, and what their list of
# layers is called.
_DECODER_PATHS: Final = (
    "model.decoder",
    "model.language_model",
    "model",
    "transformer",
    "gpt_neox",
    "decoder",
)
_LAYER_NAMES: Final = ("layers", "h", "blocks")
_ATTENTION_NAMES: Final = ("self_attn", "attention", "attn", "self_attention")
# OPT has no MLP module: its second linear layer ends the MLP.
_MLP_NAMES: Final = ("mlp", "block_sparse_moe", "feed_forward", "ffn", "fc2")
# Post-norm layers normalise what a block returns before they add it. First attention's norm, then the
# MLP's; a layer is post-norm when it has all names of a line, since most call the norm *before* their
# MLP post_attention_layernorm.
_POST_NORMS: Final = (
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # glm4, which has the pre-MLP norm besides
    (
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ),  # gemma2 to 4, olmo2, olmo3, exaone4
    ("post_attention_layernorm", "post_mlp_layernorm", "pre_mlp_layernorm"),  # afmoe
)

Change = Callable[[Tensor, int], Tensor | None]
"""Takes hidden states and the number of their slot, gives what replaces them; None: nothing does."""


@dataclass(frozen=True)
class Sites:
    """The modules of one model, in the order of its layers."""

    model: nn.Module
    """The causal LM itself, without an adapter's wrapper."""
    decoder: nn.Module
    """Owner of the layers; returns what the LM head reads."""
    layers: list[nn.Module]

    def attention(self, layer: int) -> nn.Module:
        """Find the last module of one layer's attention, whose output is added to the residual stream.

        On post-norm models that is the norm behind the attention.
        """
        if norms := _post_norms(self.layers[layer]):
            return norms[0]
        return self._inside(layer, "attention_output", _ATTENTION_NAMES)

    def mlp(self, layer: int) -> nn.Module:
        """Find the last module of one layer's MLP or mixture of experts (OPT: a linear layer)."""
        if norms := _post_norms(self.layers[layer]):
            return norms[1]
        return self._inside(layer, "mlp_output", _MLP_NAMES)

    def embedding(self) -> nn.Module:
        """Find the token embeddings (before position embeddings, where there are any)."""
        return self._end("embedding", "get_input_embeddings")

    def head(self) -> nn.Module:
        """Find the LM head."""
        return self._end("logits", "get_output_embeddings")

    def _inside(self, layer: int, site: str, names: tuple[str, ...]) -> nn.Module:
        inside = self.layers[layer]
        for name in names:
            if isinstance(module := getattr(inside, name, None), nn.Module):
                return module
        raise ConfigError(
            f"perturbation.site: {site} is not found in layer {layer} of {type(self.model).__name__}",
            why=f"looked for {', '.join(names)} in {type(inside).__name__}, which has "
            f"{', '.join(name for name, _ in inside.named_children())}",
            fix="choose another site or leave this layer out",
        )

    def _end(self, site: str, getter: str) -> nn.Module:
        get = getattr(self.model, getter, None)
        try:
            module = get() if callable(get) else None
        except NotImplementedError:
            module = None
        if isinstance(module, nn.Module):
            return module
        raise ConfigError(
            f"perturbation.site: {site} is not found in {type(self.model).__name__}",
            why=f"looked for a module from {getter}()",
            fix="choose another site",
        )


def find_sites(model: nn.Module) -> Sites:
    """Find the decoder and its layers; `ConfigError` for an architecture that hides them."""
    base = _without_adapter(model)
    candidates: list[object] = []
    if callable(get_decoder := getattr(base, "get_decoder", None)):
        candidates.append(get_decoder())
    candidates += [_attribute(base, path) for path in _DECODER_PATHS]
    candidates.append(base)
    for decoder in candidates:
        for name in _LAYER_NAMES:
            layers = getattr(decoder, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) > 0:
                return Sites(base, cast(nn.Module, decoder), list(layers))
    raise ConfigError(
        f"no decoder layers found in {type(base).__name__}",
        where="model",
        why=f"looked for a non-empty ModuleList called {', '.join(_LAYER_NAMES)} in get_decoder(), "
        f"{', '.join(_DECODER_PATHS)} and the model itself",
        fix="use a decoder-only causal language model",
    )


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Give the decoder layers in order, whichever architecture or adapter wraps them."""
    return find_sites(model).layers


def hook_states(
    sites: Sites, site: Site, layers: Sequence[int], change: Change
) -> list[RemovableHandle]:
    """Let `change` replace the hidden states at a site: of each layer, slot by slot, or of the whole model."""
    match site:
        case "layer_input":
            return [
                sites.layers[layer].register_forward_pre_hook(
                    _input_hook(change, slot), with_kwargs=True
                )
                for slot, layer in enumerate(layers)
            ]
        case "attention_output":
            modules = [sites.attention(layer) for layer in layers]
        case "mlp_output":
            modules = [sites.mlp(layer) for layer in layers]
        case "embedding":
            modules = [sites.embedding()]
        case "final_hidden":
            modules = [sites.decoder]
        case "logits":
            modules = [sites.head()]
        case _:
            assert_never(site)
    return [m.register_forward_hook(_output_hook(change, slot)) for slot, m in enumerate(modules)]


def _input_hook(change: Change, slot: int) -> Callable[..., object]:
    """Make a hook for layers, which take their hidden states first or by name."""

    @eager
    def replace_input(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        states = args[0] if args else kwargs["hidden_states"]
        changed = change(cast(Tensor, states), slot)
        if changed is None:
            return None
        if args:
            return (changed, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed}

    return replace_input


def _output_hook(change: Change, slot: int) -> Callable[..., object]:
    """Make a hook for modules that return a tensor, a tuple that starts with one, or a decoder's output object."""

    @eager
    def replace_output(module: nn.Module, args: tuple[object, ...], output: object) -> object:
        if isinstance(output, Tensor):
            return change(output, slot)
        if isinstance(output, tuple):
            changed = change(output[0], slot)
            return None if changed is None else (changed, *output[1:])
        decoded = cast(BaseModelOutput, output)
        changed = change(cast(Tensor, decoded.last_hidden_state), slot)
        if changed is None:
            return None
        decoded.last_hidden_state = changed
        return decoded

    return replace_output


def _post_norms(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Attention's and the MLP's norm of a layer that adds their output, not the blocks'."""
    for names in _POST_NORMS:
        found = [getattr(layer, name, None) for name in names]
        if all(isinstance(module, nn.Module) for module in found):
            return cast(nn.Module, found[0]), cast(nn.Module, found[1])
    return None


def _without_adapter(model: nn.Module) -> nn.Module:
    """Unwrap PEFT, whose wrapper hands attributes through but hides `get_decoder`'s owner."""
    unwrap = getattr(model, "get_base_model", None)
    return cast(nn.Module, unwrap()) if callable(unwrap) else model


def _attribute(module: nn.Module, path: str) -> object:
    at: object = module
    for name in path.split("."):
        at = getattr(at, name, None)
    return at
