"""Prompts and answers that a tokenizer loses are refused, before anything is created; others pass."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alpkit.config import RunConfig
from alpkit.config.environment import ToolMathConfig
from alpkit.config.tasks import PromptConfig
from alpkit.errors import ConfigError
from alpkit.launch import preflight
from alpkit.policy.loading import load_policy
from alpkit.policy.round_trip import check_round_trip, check_talk
from alpkit.tasks import Item
from tests.support.talk import chat_tokenizer

TINY = load_policy("builtin:tiny-addition").tokenizer


def characters(alphabet, *, normalizer=None, template=None):
    """A tokenizer of single characters; what is not in the alphabet becomes <unk>."""
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<unk>", *alphabet])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    if normalizer:
        backend.normalizer = normalizer
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    made.chat_template = template
    return made


ALL = "abcdefghijklmnopqrstuvwxyz 0123456789+-=?\n"
CHAT = "{% for m in messages %}user: {{ m.content | trim }}\n{% endfor %}model: "


def test_the_tiny_adder_holds_sums():
    check_round_trip(TINY, [Item("123+456=", "579")])


@pytest.mark.parametrize(
    ("prompt", "answer", "told"),
    [
        ("what is 12+3=", "15", r"the prompt 'what is 12\+3=', which comes back as '12\+3='"),
        ("12-3=", "9", "the prompt '12-3=', which comes back as '123='"),
        ("1+2=", "-3", "the answer '-3', which comes back as '3'"),
        ("1 + 2 =", "3", "the prompt '1 . 2 =', which comes back as '1.2='"),
    ],
)
def test_what_vanishes_without_a_token_is_refused(prompt, answer, told):
    with pytest.raises(ConfigError, match=told) as caught:
        check_round_trip(TINY, [Item("1+1=", "2"), Item(prompt, answer)])
    assert caught.value.fix


def test_an_unknown_token_is_no_answer_and_no_prompt():
    tokenizer = characters(ALL)
    check_round_trip(tokenizer, [Item("what is 3-4?\n", "-1")])
    for item in (Item("what is 3*4?", "12"), Item("what is 3?", "x*y")):
        with pytest.raises(ConfigError, match="comes back as"):
            check_round_trip(tokenizer, [item])


def test_templates_may_trim_and_normalisers_fold_what_means_the_same():
    item = Item("what is ½+1?\n", "3")
    tokenizer = characters(
        ALL + "½⁄", normalizer=normalizers.NFKC(), template=CHAT.replace("user", "say")
    )
    check_round_trip(characters(ALL + ": ", template=CHAT), [Item("what is 2+1?\n", "3")])
    check_round_trip(tokenizer, [item])


def test_suffix_and_system_are_part_of_the_prompt():
    tokenizer = characters(ALL)
    items = [Item("1+1=?", "2")]
    check_round_trip(tokenizer, items, PromptConfig(suffix="\nthink", system="answer"))
    for prompt in (PromptConfig(suffix=" THINK"), PromptConfig(system="BE BRIEF")):
        with pytest.raises(ConfigError, match=r"THINK|BE BRIEF"):
            check_round_trip(tokenizer, items, prompt)


@pytest.mark.parametrize(
    ("tokenizer", "settings", "where"),
    [
        (TINY, {}, "environment.output"),
        (TINY, {"output": "{output}"}, "environment.final_prompt"),
        (TINY, {"output": "{output}", "final_prompt": "42="}, "environment.name"),
    ],
)
def test_a_model_that_cannot_talk_with_its_environment_is_refused(tokenizer, settings, where):
    with pytest.raises(ConfigError, match="the model cannot hold the text") as caught:
        check_talk(tokenizer, ToolMathConfig(**settings))
    assert caught.value.where == where
    assert caught.value.fix


def test_a_model_that_can_write_code_may_talk():
    check_talk(chat_tokenizer(), ToolMathConfig())
    check_talk(chat_tokenizer(), ToolMathConfig(role="tool"))


def test_a_run_is_asked_before_anything_is_created():
    config = RunConfig.model_validate(
        {
            "task": {"name": "math"},
            "environment": {},
            "rollout": {"max_tokens": 5000, "prompts": 3},
            "train": {"updates_per_rollout": 1},
            "hardware": {"micro_batch_tokens": 6000},
        }
    )
    with pytest.raises(ConfigError, match="builtin:tiny-addition cannot hold the text"):
        preflight._check_model(config)


GYM = {"name": "reasoning_gym", "dataset": "chain_sum"}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"task": GYM}, "task"),
        ({"evals": [{"name": "sums"}, {"name": "gym", "task": GYM, "items": 4}]}, "evals[1]"),
    ],
)
def test_every_task_of_a_run_is_looked_at(settings, where):
    pytest.importorskip("reasoning_gym")
    config = RunConfig.model_validate({"eval": {"items": 8}, **settings})
    with pytest.raises(ConfigError, match="builtin:tiny-addition cannot hold the prompt") as caught:
        preflight._check_model(config)
    assert caught.value.where == where
