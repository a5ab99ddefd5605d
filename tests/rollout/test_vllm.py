"""vLLM's log-probs are the trainer's where the weights are, and only there; its samples are seeded.

Engines take seconds to start: four in all, shared by the module and closed at its end, because the
first to close ends the others. The tied and the untied model are both needed: packing on the CPU
treats their LM heads differently.
"""

import math
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import alpkit.rollout.vllm
from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import VllmRolloutConfig
from alpkit.errors import ConfigError, PrerequisiteError, RolloutError
from alpkit.rollout import Request, Response
from alpkit.rollout.probe import SyncProbe
from alpkit.rollout.stopping import StopText
from alpkit.rollout.vllm import VllmSampler, _process_state_kept

pytestmark = pytest.mark.vllm

VOCAB, STOP = 40, 1
PROMPTS = [(2 + i, 5 + i, 9 + (7 * i) % 20, 4) for i in range(6)]
REQUESTS = [Request(PROMPTS[i % 6], 10**18 + i) for i in range(24)]
FLOAT32 = 1e-3  # nats; measured below 1e-5

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


def save_model(folder: Path, *, tied: bool) -> str:
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,  # head size 32: the smallest that vLLM's CPU attention has
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=7,  # not the trainer's end token: vLLM must not stop here
        pad_token_id=0,
        initializer_range=0.2,  # log-probs that are far from uniform
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(VOCAB)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1").save_pretrained(folder)
    return str(folder)


def start(source: str, **settings: object) -> VllmSampler:
    config = VllmRolloutConfig(engine="vllm", **settings)
    # A string that never comes: the engine then has a tokenizer, and tests may give it other strings.
    rule = stop_text(source, "never") if Path(source).is_dir() else None
    hardware = HardwareConfig(sampler_kv_gib=0.1)
    return VllmSampler(
        source, config, stop_ids=(STOP,), seed=2**62 + 1, hardware=hardware, stop_text=rule
    )


def stop_text(source: str, *strings: str) -> StopText:
    rule = StopText.build(AutoTokenizer.from_pretrained(source), strings)
    assert rule is not None
    return rule


def load(source: str) -> PreTrainedModel:
    return Qwen2ForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


@torch.no_grad()
def trainer_logp(model: PreTrainedModel, sequences: Sequences, temperature: float) -> torch.Tensor:
    rows = []
    for prompt, response in sequences:
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logp = (logits / temperature).log_softmax(dim=-1)
        rows.append(logp.gather(-1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(rows)


def flat(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row])


def paired(requests: Sequence[Request], responses: Sequence[Response]) -> Sequences:
    return [(q.prompt_ids, r.token_ids) for q, r in zip(requests, responses, strict=True)]


def gaps(sampler: VllmSampler, model: PreTrainedModel, temperature: float = 1.0) -> torch.Tensor:
    """|vLLM - trainer| of freshly sampled tokens, generated and scored; one row each."""
    responses = sampler.generate(REQUESTS, max_tokens=12, temperature=temperature)
    sequences = paired(REQUESTS, responses)
    wanted = trainer_logp(model, sequences, temperature)
    assert len(wanted) > 150
    scored = flat(sampler.score(sequences))
    return torch.stack([flat([r.logp for r in responses]) - wanted, scored - wanted]).abs()


@contextmanager
def shaken(model: PreTrainedModel) -> Iterator[None]:
    """Inside, every parameter is moved, embeddings and norms and biases included."""
    saved = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.08 * torch.randn_like(p))
    yield
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(saved[name])


class Engine:
    def __init__(self, source: str, **settings: object) -> None:
        self.source = source
        self.model = load(source)
        self.sampler = start(source, **settings)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """float32 at temperature 0.7."""
    folder = save_model(tmp_path_factory.mktemp("untied"), tied=False)
    engine = Engine(folder, dtype="float32", temperature=0.7, max_model_len=64)
    yield engine
    engine.sampler.close()


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module")
def tied(tied_folder: str) -> Iterator[Engine]:
    """float32 at temperature 1."""
    engine = Engine(tied_folder, dtype="float32")
    yield engine
    engine.sampler.close()


@pytest.fixture(scope="module")
def half(tied_folder: str) -> Iterator[VllmSampler]:
    sampler = start(tied_folder, dtype="bfloat16")
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def float32_head(tied_folder: str) -> Iterator[VllmSampler]:
    sampler = start(tied_folder, dtype="bfloat16", head_dtype="float32")
    yield sampler
    sampler.close()


def test_log_probs_agree_with_the_trainer_at_the_sampling_temperature(
    tied: Engine, untied: Engine
) -> None:
    assert gaps(tied.sampler, tied.model, 1.0).max() < FLOAT32
    assert gaps(untied.sampler, untied.model, 0.7).max() < FLOAT32


@pytest.mark.parametrize("which", ["tied", "untied"])
def test_pushed_weights_arrive_everywhere(which: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(which)
    temperature = engine.sampler.config.temperature
    before = engine.sampler.generate(REQUESTS, max_tokens=12, temperature=temperature)
    with shaken(engine.model):
        assert gaps(engine.sampler, engine.model, temperature).mean() > 0.1
        engine.sampler.sync(engine.model.named_parameters())
        assert gaps(engine.sampler, engine.model, temperature).max() < FLOAT32
    engine.sampler.sync(engine.model.named_parameters())
    assert engine.sampler.generate(REQUESTS, max_tokens=12, temperature=temperature) == before


def test_without_redispatch_the_tied_head_stays_old(
    tied: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shaken(tied.model):
        with monkeypatch.context() as patch:
            patch.setattr(alpkit.rollout.vllm, "redispatch", lambda model: None)
            tied.sampler.sync(tied.model.named_parameters())
        assert gaps(tied.sampler, tied.model).mean() > 0.05
    tied.sampler.sync(tied.model.named_parameters())
    assert gaps(tied.sampler, tied.model).max() < FLOAT32


PROBED = [(PROMPTS[i], tuple((3 * i + 5 * j) % 37 + 2 for j in range(5))) for i in range(6)]


def prove(sampler: VllmSampler, model: PreTrainedModel) -> None:
    temperature = sampler.config.temperature
    probe = SyncProbe(PROBED, pad_id=0, temperature=temperature, tolerance=0.3)
    probe.prove_sync(sampler, model, seed=0)


@pytest.mark.parametrize("which", ["tied", "untied", "half"])
def test_the_start_up_check_names_the_tensor_that_stays_old(
    which: str, tied: Engine, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor, and vLLM's bfloat16 too, in benchmarks/sync_check.py."""
    engine = request.getfixturevalue(which)
    sampler, model = (engine, tied.model) if which == "half" else (engine.sampler, engine.model)
    prove(sampler, model)
    push = sampler.sync
    for stale in ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        old = dict(model.named_parameters())[stale].detach().clone()
        with monkeypatch.context() as patch:
            patch.setattr(
                sampler,
                "sync",
                lambda ps, s=stale, o=old: push((n, o if n == s else p) for n, p in ps),
            )
            with pytest.raises(RolloutError) as caught:
                prove(sampler, model)
        assert caught.value.what.endswith(f"did not all arrive: {stale}")
    if which != "untied":
        with monkeypatch.context() as patch:
            patch.setattr(alpkit.rollout.vllm, "redispatch", lambda model: None)
            with pytest.raises(RolloutError, match=r"the LM head's copy of model\.embed_tokens"):
                prove(sampler, model)
    sampler.sync(model.named_parameters())


def test_a_float32_head_forms_its_logits_in_float32(
    tied: Engine, half: VllmSampler, float32_head: VllmSampler
) -> None:
    logits: list[torch.dtype] = []
    float32_head._llm.apply_model(
        lambda model: model.logits_processor.register_forward_hook(
            lambda module, args, out: logits.append(out.dtype)
        )
    )
    scores = flat(float32_head.score(PROBED))
    assert set(logits) == {torch.float32}
    assert not torch.equal(scores, flat(half.score(PROBED)))
    # The rest of the model is bfloat16 still.
    assert (scores - trainer_logp(tied.model, PROBED, 1.0)).abs().max() < 0.5


def test_cached_keys_and_values_of_the_old_weights_are_dropped(tied: Engine) -> None:
    # vLLM caches whole blocks, 128 tokens on a CPU.
    prompt = tuple(2 + i * i % 37 for i in range(150))
    requests = [Request(prompt, seed) for seed in range(4)]
    tied.sampler.generate(requests, max_tokens=8, temperature=1.0)
    with shaken(tied.model):
        tied.sampler.sync(tied.model.named_parameters())
        responses = tied.sampler.generate(requests, max_tokens=8, temperature=1.0)
        torch.testing.assert_close(
            flat([r.logp for r in responses]),
            trainer_logp(tied.model, paired(requests, responses), 1.0),
            rtol=0,
            atol=FLOAT32,
        )
    tied.sampler.sync(tied.model.named_parameters())


def test_a_later_turn_finds_the_turns_before_it_in_the_cache(
    tied: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tuple(2 + i * i % 37 for i in range(150))
    (first,) = tied.sampler.generate([Request(prompt, 0)], max_tokens=8, temperature=1.0)
    later = [Request((*prompt, *first.token_ids, 5, 6, 7), 1, max_tokens=3)]
    run, outputs = tied.sampler._run, []
    monkeypatch.setattr(tied.sampler, "_run", lambda *a: outputs.extend(run(*a)) or outputs)
    responses = tied.sampler.generate(later, max_tokens=8, temperature=1.0)
    assert outputs[0].num_cached_tokens >= 128  # a whole block of the first turn
    assert len(responses[0].token_ids) <= 3
    torch.testing.assert_close(
        flat([r.logp for r in responses]),
        trainer_logp(tied.model, paired(later, responses), 1.0),
        rtol=0,
        atol=FLOAT32,
    )


def test_samples_follow_their_seeds_alone(tied: Engine) -> None:
    def sample(requests: Sequence[Request]) -> list[Response]:
        return tied.sampler.generate(requests, max_tokens=12, temperature=1.0)

    seeds = [Request(PROMPTS[0], 2**63 - 1 - i) for i in range(8)]
    first = sample(seeds)
    assert len({r.token_ids for r in first}) == 8
    assert sample(seeds) == first
    twins = sample([seeds[0], seeds[0], seeds[3]])
    assert [r.token_ids for r in twins] == [first[i].token_ids for i in (0, 0, 3)]


def test_more_prompt_tokens_than_vllm_batches_at_once(tied: Engine) -> None:
    # 6,400 prompt tokens against a budget of 4,096 a step: seeded requests must not be cut there.
    prompts = [tuple((7 * i + j * j) % 37 + 2 for j in range(160)) for i in range(40)]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    responses = tied.sampler.generate(requests, max_tokens=4, temperature=1.0)
    torch.testing.assert_close(
        flat([r.logp for r in responses]),
        trainer_logp(tied.model, paired(requests, responses), 1.0),
        rtol=0,
        atol=FLOAT32,
    )
    alone = tied.sampler.generate(requests[30:32], max_tokens=4, temperature=1.0)
    assert [r.token_ids for r in alone] == [r.token_ids for r in responses[30:32]]


def test_responses_end_with_the_trainers_end_token_or_at_the_limit(tied: Engine) -> None:
    requests = [Request(prompt, seed) for prompt in PROMPTS for seed in range(20)]
    responses = tied.sampler.generate(requests, max_tokens=12, temperature=1.0)
    stopped = [r for r in responses if r.finish == "stop"]
    cut = [r for r in responses if r.finish == "length"]
    assert len(stopped) > 5
    assert len(cut) > 5
    assert all(r.token_ids.index(STOP) == len(r.token_ids) - 1 for r in stopped)
    assert all(STOP not in r.token_ids and len(r.token_ids) == 12 for r in cut)
    assert all(len(r.logp) == len(r.token_ids) for r in responses)
    assert any(7 in r.token_ids[:-1] for r in responses)


def test_greedy_tokens_carry_log_probs_of_temperature_1(untied: Engine) -> None:
    requests = [Request(prompt, 0) for prompt in PROMPTS]
    responses = untied.sampler.generate(requests, max_tokens=8, temperature=0.0)
    sequences = paired(requests, responses)
    torch.testing.assert_close(
        flat([r.logp for r in responses]),
        trainer_logp(untied.model, sequences, 1.0),
        rtol=0,
        atol=FLOAT32,
    )
    for prompt, response in sequences:
        for i, token in enumerate(response):
            logits = untied.model(torch.tensor([prompt + response[:i]])).logits[0, -1]
            assert logits.argmax() == token


def test_bfloat16_is_further_from_the_trainer_but_close(tied: Engine, half: VllmSampler) -> None:
    gap = gaps(half, tied.model)
    assert gap.mean() > 100 * gaps(tied.sampler, tied.model).mean()
    assert gap.max() < 0.5


def test_non_finite_log_probs_are_passed_on(tied: Engine) -> None:
    with shaken(tied.model):
        with torch.no_grad():
            tied.model.model.norm.weight.fill_(math.nan)
        tied.sampler.sync(tied.model.named_parameters())
        responses = tied.sampler.generate(REQUESTS[:2], max_tokens=3, temperature=1.0)
    tied.sampler.sync(tied.model.named_parameters())
    assert all(math.isnan(value) for r in responses for value in r.logp)


def test_starting_vllm_leaves_the_process_as_it_was() -> None:
    from vllm.utils.torch_utils import set_random_seed

    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    def seed() -> None:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)

    seed()
    wanted = draws()
    seed()
    set_num_threads = torch.set_num_threads
    with _process_state_kept():
        set_random_seed(0)
        torch.set_num_threads = print
    assert draws() == wanted
    assert torch.set_num_threads is set_num_threads


def test_an_engine_in_the_process_does_not_hinder_training(tied: Engine) -> None:
    assert tied.sampler.generate([], max_tokens=4, temperature=1.0) == []
    assert torch.set_num_threads.__module__ == "torch"  # vLLM's own would be a no-op
    assert torch.is_grad_enabled()
    assert not torch._dynamo.config.disable


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_temperatures_that_vllm_would_change_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="cannot sample at temperature"):
        start("anywhere", temperature=temperature)


def test_sequences_beyond_the_engines_length_are_refused(tied: Engine, untied: Engine) -> None:
    full = (tuple(range(2, 32)) * 2, (3, 4, 5, 6))
    assert len(untied.sampler.score([full])[0]) == 4
    with pytest.raises(ConfigError, match="need 65 tokens, vLLM was started for 64") as caught:
        untied.sampler.generate([Request(full[0], 0)], max_tokens=5, temperature=1.0)
    assert caught.value.where == "rollout.max_model_len"
    # max_model_len 1024 of the default is more than the model has positions for
    with pytest.raises(ConfigError, match="vLLM was started for 255"):
        tied.sampler.score([((2,) * 255, (3,))])


def test_missing_vllm_prints_the_lines_for_both_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PrerequisiteError) as caught:
        start("anywhere")
    assert 'pip install "alpkit[vllm]"' in caught.value.fix
    assert "make install" in caught.value.fix


@pytest.mark.parametrize(("name", "temperature"), [("untied", 0.7), ("tied", 1.0)])
def test_stop_strings_and_several_end_tokens_end_responses_where_the_trainer_s_engine_does(
    name: str, temperature: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = request.getfixturevalue(name)
    sampler = engine.sampler
    free = sampler.generate(REQUESTS, max_tokens=12, temperature=temperature)
    long = [r.token_ids for r in free if len(r.token_ids) == 12]
    rule = stop_text(engine.source, *(f"w{ids[3]} w{ids[4]}" for ids in long[:4]), f"w{long[5][6]}")
    ends = (STOP, long[6][5], long[7][8])
    monkeypatch.setattr(sampler, "_stop_text", rule)
    monkeypatch.setattr(sampler, "_stop_ids", list(ends))
    stopped = sampler.generate(REQUESTS, max_tokens=12, temperature=temperature)

    def cut(response: Response) -> Response:
        at = [n for n, token in enumerate(response.token_ids, 1) if token in ends]
        at += [n] if (n := rule.end(response.token_ids)) else []
        return Response(response.token_ids[: min(at)], response.logp, "stop") if at else response

    for response, whole in zip(stopped, map(cut, free), strict=True):
        assert response.token_ids == whole.token_ids
        assert response.finish == whole.finish
    by_text = [r for r in stopped if r.finish == "stop" and r.token_ids[-1] not in ends]
    assert by_text
    assert {r.token_ids[-1] for r in stopped} >= set(ends) - {STOP}
    wanted = trainer_logp(engine.model, paired(REQUESTS, stopped), temperature)
    assert (flat([r.logp for r in stopped]) - wanted).abs().max() < 1e-5
