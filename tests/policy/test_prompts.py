"""Prompts: templates with their arguments, system messages, suffixes, plain text; and what is refused."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alpkit.config.tasks import PromptConfig
from alpkit.errors import ConfigError
from alpkit.policy.loading import check_prompt, encode_prompt

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}|{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% if enable_thinking is defined and not enable_thinking %}#{% endif %}{% endif %}"
)
DROPS = CHAT.replace("{% for m in messages %}", "{% for m in messages if m['role'] == 'user' %}")
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHAT
)


def tokenizer(template=None):
    alphabet = ["<unk>", *map(chr, range(10, 127))]
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    from tokenizers import decoders

    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", chat_template=template
    )


def text(own, question="1+1", **settings):
    return own.decode(encode_prompt(own, question, PromptConfig(**settings)))


def test_a_template_takes_system_suffix_and_arguments():
    own = tokenizer(CHAT)
    assert text(own) == "[user|1+1]>"
    assert text(own, system="Box it.") == "[system|Box it.][user|1+1]>"
    assert text(own, suffix=" Go!") == "[user|1+1 Go!]>"
    assert text(own, template_args={"enable_thinking": False}) == "[user|1+1]>#"


def test_plain_prompts_are_text_with_the_system_message_before():
    own = tokenizer(CHAT)
    assert text(own, template="none") == "1+1"
    assert text(own, template="none", system="Sums:", suffix="=") == "Sums:\n\n1+1="
    assert text(tokenizer(), suffix="=") == "1+1="


@pytest.mark.parametrize(
    ("template", "settings", "where", "message"),
    [
        (DROPS, {"system": "Box it."}, "prompt.system", "drops the system message"),
        (REFUSES, {"system": "Box it."}, "prompt", "refuses this prompt"),
        (
            CHAT,
            {"template_args": {"enable_thinkin": False}},
            "prompt.template_args",
            "knows no enable_thinkin",
        ),
        (
            None,
            {"template_args": {"enable_thinking": False}},
            "prompt.template_args",
            "no chat template",
        ),
    ],
)
def test_a_prompt_that_would_not_be_as_asked_is_refused(template, settings, where, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_prompt(tokenizer(template), PromptConfig(**settings))
    assert caught.value.where == where
    assert caught.value.fix


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        (CHAT, {"system": "Box  it."}),
        (CHAT, {"template_args": {"enable_thinking": False}}),
        (CHAT, {"template_args": {"enable_thinking": True}}),  # the same prompt, and yet understood
        (DROPS, {"system": "Box it.", "template": "none"}),
        (None, {"system": "Box it."}),
    ],
)
def test_a_prompt_that_is_as_asked_passes(template, settings):
    check_prompt(tokenizer(template), PromptConfig(**settings))


def test_faults_of_the_section():
    with pytest.raises(ValueError, match="no template to give them to"):
        PromptConfig(template="none", template_args={"enable_thinking": False})
    with pytest.raises(ValueError, match="empty stop string"):
        PromptConfig(stop=("",))
