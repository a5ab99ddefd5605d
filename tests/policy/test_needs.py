"""The memory model against tensors that were counted, on models of several kinds, within 10 %."""

import itertools
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from alpkit.config import RunConfig
from alpkit.config.hardware import HardwareConfig
from alpkit.policy.attention import Packing
from alpkit.policy.autocast import Precision
from alpkit.policy.checkpointing import prepare, recomputing
from alpkit.policy.loading import load_policy
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.needs import forward_tokens, generated_rows, needs, sampling_bytes, update_bytes
from alpkit.policy.shapes import read_shape, shape_of
from alpkit.rollout import Request
from alpkit.rollout.hf import generate
from tests.support.tiny_models import tiny

KINDS = ("llama", "mistral", "qwen2", "qwen3")
SIZES = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6, "head_dim": 16}
PLENTY = {"num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 300}
LENGTHS = (250, 240, 220, 200, 180, 150, 140, 130, 100, 90, 80)
TOKENS = sum(LENGTHS)


def a_model(kind, **changes):
    return tiny(kind, **(SIZES | PLENTY | changes))


def rows():
    attention = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        attention[row, :length] = True
    response = attention.clone()
    response[:, :60] = False
    tokens = torch.randint(3, 300, attention.shape, generator=torch.Generator().manual_seed(0))
    return tokens, attention, response


def score(model, *, precision, checkpoint_layers, chunk=None):
    with recomputing(model, checkpoint_layers), precision.autocast(torch.device("cpu")):
        return response_logprobs(
            model, *rows(), chunk=chunk, head_float32=precision.head_float32, packing=Packing()
        ).logp


def saved_bytes(model, **settings):
    """Bytes of the storages that a forward keeps, parameters left out."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, sizes = [], {}

    def look(tensor):
        storage = tensor.untyped_storage()
        kept.append(tensor)  # an address counts once only while it is held
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        score(model, **settings)
    return sum(sizes.values())


def peak_bytes(step):
    """Largest sum of bytes that were allocated at once in `step`, as torch's allocator tells it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    steps = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(steps), default=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_from_the_config_alone(kind, tied):
    model = a_model(kind, tie_word_embeddings=tied)
    shape = shape_of(model.config.to_dict())
    assert shape.exact
    assert shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_keeps_what_saved_tensors_count(kind, dtype):
    precision = Precision(dtype, "autocast")
    few, more = (a_model(kind, num_hidden_layers=n) for n in (2, 4))
    settings = {"precision": precision, "checkpoint_layers": False}
    counted = (saved_bytes(more, **settings) - saved_bytes(few, **settings)) / 2
    shape = shape_of(more.config.to_dict())
    layer = TOKENS * shape.kept_per_token(autocast=dtype != "float32")
    weights = 0 if dtype == "float32" else 2 * shape.matrices
    assert layer + weights == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("dtype", "checkpoint_layers", "chunk"),
    [
        ("float32", False, None),
        ("float32", False, 256),
        ("float32", True, 256),
        ("bfloat16", False, 256),
        ("bfloat16", True, 256),
    ],
)
def test_an_update_needs_what_the_allocator_counts(kind, dtype, checkpoint_layers, chunk):
    """Gradients exist before: only what comes on top of them is compared."""
    vocab = 300 if chunk is None else 3000
    model = a_model(kind, num_hidden_layers=4, vocab_size=vocab)
    if checkpoint_layers:
        prepare(model)
    settings = {
        "precision": Precision(dtype, "autocast"),
        "checkpoint_layers": checkpoint_layers,
        "chunk": chunk,
    }
    score(model, **settings).sum().backward()
    counted = peak_bytes(lambda: score(model, **settings).sum().backward())
    hardware = {
        "micro_batch_tokens": TOKENS,
        "checkpoint_layers": checkpoint_layers,
        "head_chunk": chunk,
    }
    config = RunConfig.model_validate({"dtype": dtype, "hardware": hardware})
    found = update_bytes(shape_of(model.config.to_dict()), config, gpu_bytes=None)
    assert found == pytest.approx(counted, rel=0.1)


def test_sampling_needs_what_the_allocator_counts():
    model = a_model("llama", num_hidden_layers=4, vocab_size=3000)
    prompt, new, many = 100, 30, 32

    def sample():
        requests = [Request(tuple(range(3, 3 + prompt)), seed) for seed in range(many)]
        generate(model, requests, max_tokens=new, temperature=1.0, stop_ids=(), pad_id=0)

    sample()
    rollout = {"prompts": many // 4, "group": 4, "max_tokens": new}
    train = {"updates_per_rollout": 1}
    config = RunConfig.model_validate({"rollout": rollout, "train": train})
    found = sampling_bytes(shape_of(model.config.to_dict()), config, gpu_bytes=None, prompt=prompt)
    assert found == pytest.approx(peak_bytes(sample), rel=0.1)


def test_what_stands_is_weights_gradients_moments_and_copies():
    shape = read_shape("builtin:tiny-addition", None)
    weights = 4 * sum(p.numel() for p in load_policy("builtin:tiny-addition").model.parameters())
    plain = needs(shape, RunConfig(), gpu_bytes=None).standing
    assert {k: v for k, v in plain.items() if k != "process"} == {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,
        "sampler": weights,
    }
    lagging = RunConfig.model_validate(
        {"rollout": {"lag": 2}, "objective": {"reference_kl": {"coef": 0.1}}}
    )
    more = needs(shape, lagging, gpu_bytes=None).standing
    assert (more["lagging weights"], more["reference policy"]) == (3 * weights, weights)
    assert "lagging weights" not in needs(shape, lagging, gpu_bytes=2**34).standing  # on the host
    small = RunConfig.model_validate({"train": {"optimizer": "adamw_8bit"}})
    moments = needs(shape, small, gpu_bytes=None).standing["optimizer"]
    assert moments == pytest.approx(weights / 4 * 2, rel=0.02)
    vllm = RunConfig.model_validate({"rollout": {"engine": "vllm"}})
    assert needs(shape, vllm, gpu_bytes=10 * 2**30).standing["sampler"] == 4 * 2**30


def test_the_largest_phase_counts_and_only_it():
    found = needs(read_shape("builtin:smollm2-135m", None), RunConfig(), gpu_bytes=None)
    assert found.total == sum(found.standing.values()) + max(found.phases.values())
    assert found.total == sum(found.parts.values())


def test_a_forward_on_a_cpu_aims_at_a_size_and_one_on_a_gpu_at_its_budget():
    shape, hardware = read_shape("builtin:smollm2-135m", None), HardwareConfig()
    aim = forward_tokens(shape, hardware, autocast=False, on_gpu=False)
    assert 256 <= aim < hardware.micro_batch_tokens
    again = HardwareConfig(checkpoint_layers=True)
    assert forward_tokens(shape, again, autocast=False, on_gpu=False) > aim
    assert forward_tokens(shape, hardware, autocast=False, on_gpu=True) is None
    assert forward_tokens(None, hardware, autocast=False, on_gpu=False) is None


def test_a_bound_on_prompts_is_reckoned_with():
    shape = read_shape("builtin:smollm2-135m", None)
    fixed = {"hardware": {"rollout_batch": 64}}  # else rows follow from memory
    configs = (
        RunConfig.model_validate(fixed | {"rollout": rollout})
        for rollout in ({}, {"filter": {"max_prompt": 512}})
    )
    phases = (needs(shape, config, gpu_bytes=None).phases for config in configs)
    plain, longer = (phase["sampling"] for phase in phases)
    assert longer > 2 * plain


def test_rows_follow_from_memory():
    assert generated_rows(2**20, 2**30) == 128
    assert generated_rows(2**10, 2**40) == 512
    assert generated_rows(2**40, 2**30) == 1


def test_mixtures_and_unknown_models_have_no_shape():
    assert shape_of(tiny("mixtral").config.to_dict()) is None
    assert shape_of(tiny("gpt2").config.to_dict()) is None
    assert not shape_of(tiny("gemma2").config.to_dict()).exact
    assert read_shape("nobody/was-never-downloaded", None) is None


def test_the_built_in_model_has_the_sizes_that_are_written_down():
    pytest.importorskip("gguf")
    from alpkit.policy.folders import converted_folder

    folder = converted_folder("builtin:smollm2-135m")
    if folder is None:
        pytest.skip("not converted here")
    assert read_shape("builtin:smollm2-135m", None) == read_shape(str(folder), None)


def test_sizes_are_read_without_torch():
    import subprocess

    code = (
        "import sys; from alpkit.policy.needs import needs; "
        "from alpkit.policy.shapes import read_shape; read_shape('builtin:tiny-addition', None); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
