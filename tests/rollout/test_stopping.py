"""Stop strings and several end tokens: where a response ends, and that its log-probs stay the model's."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alpkit.policy.loading import stop_ids, stop_texts
from alpkit.rollout import Request, Response
from alpkit.rollout.hf import _nucleus, generate, score
from alpkit.rollout.stopping import StopText, before_stop
from alpkit.seeds import derive
from tests.support.tiny_models import tiny_qwen2

VOCAB = 20
LETTERS = ["<pad>", "<eos>", "<own>", *"abcdefghijklmnop", "<end>"]
EOS, OWN, END = 1, 2, 19  # the tokenizer's end token, the model's, and one among the stop strings
PROMPTS = [(5, 6, 7), (8, 9), (3,), (4, 5, 6, 7, 8)]


def letters():
    """One letter a token; no spaces between them when decoded."""
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(LETTERS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<own>", "<end>"]})
    return tokenizer


def sampled(temperature, stop, *, copies=120, max_tokens=12):
    model, tokenizer = tiny_qwen2(vocab=VOCAB), letters()
    asked = [Request(p, derive(i, c)) for i, p in enumerate(PROMPTS) for c in range(copies)]
    responses = generate(
        model,
        asked,
        max_tokens=max_tokens,
        temperature=temperature,
        stop_ids=stop_ids(model, tokenizer, stop),
        pad_id=0,
        stop_text=StopText.build(tokenizer, stop_texts(tokenizer, stop)),
    )
    return model, tokenizer, asked, responses


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_stop_string_ends_a_response_and_its_log_probs_are_the_trainers(temperature):
    model, tokenizer, asked, responses = sampled(temperature, ["ab", "cd", "<end>"])
    texts = [tokenizer.decode(r.token_ids) for r in responses]
    cut = [r for r, text in zip(responses, texts, strict=True) if text.endswith(("ab", "cd"))]
    assert len(cut) >= 2
    for response, text in zip(responses, texts, strict=True):
        ends = text.endswith(("ab", "cd", "<own>", "<end>", "<eos>"))
        assert (response.finish == "stop") is ends
        assert "ab" not in text[:-1]
        assert "cd" not in text[:-1]
        assert not {EOS, OWN, END} & set(response.token_ids[:-1])
    ended_by = {r.token_ids[-1] for r in responses if r.finish == "stop"}
    assert {EOS, OWN, END} <= ended_by
    pairs = [(q.prompt_ids, r.token_ids) for q, r in zip(asked, responses, strict=True)]
    trainer = score(model, pairs, pad_id=0, temperature=temperature)
    for response, logp in zip(responses, trainer, strict=True):
        np.testing.assert_allclose(response.logp, logp, atol=1e-5)


def test_a_stop_string_changes_nothing_before_it():
    _, tokenizer, _, plain = sampled(1.0, ["<end>"])
    _, _, _, stopped = sampled(1.0, ["<end>", "a"])
    rule = StopText.build(tokenizer, ["a"])
    assert stopped == [rule.cut(response) for response in plain]
    assert stopped != plain


def test_cut_ends_with_the_token_that_completes_the_string():
    rule = StopText.build(letters(), ["cab"])
    ids = tuple(LETTERS.index(c) for c in "ddcabcab")
    response = Response(ids, tuple(-float(i) for i in range(8)), "length")
    assert rule.cut(response) == Response(ids[:5], response.logp[:5], "stop")
    assert rule.cut(Response(ids[:4], response.logp[:4], "length")).finish == "length"
    assert StopText.build(letters(), []) is None


def test_a_string_across_many_tokens_is_found_among_long_text():
    tokenizer = letters()
    rule = StopText.build(tokenizer, ["abcdefgh"])
    ids = [LETTERS.index(c) for c in "opopopopopopopopopopabcdefgabcdefgh"]
    hits = [n for n in range(1, len(ids) + 1) if rule.hit(ids[:n])]
    assert hits == [len(ids)]


def test_special_tokens_among_stop_strings_become_end_tokens():
    tokenizer = letters()
    model = tiny_qwen2(vocab=VOCAB)
    assert stop_ids(model, tokenizer, ["<end>", "ab"]) == (EOS, OWN, END)
    assert stop_texts(tokenizer, ["<end>", "ab"]) == ("ab",)
    assert stop_ids(model, tokenizer) == (EOS, OWN)


def test_what_is_scored_ends_before_the_first_stop_string():
    assert before_stop("12\n\nQuestion: 7\n", ["\n\n", "Q"]) == "12"
    assert before_stop("12", ["\n"]) == "12"
    assert before_stop("12", []) == "12"


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.95, 3), (0.96, 4), (1.0, 4)):
        assert int(_nucleus(logits, top_p).isfinite().sum()) == kept, top_p
