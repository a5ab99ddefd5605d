"""Whether a model's tokenizer can hold what a task asks: prompts and answers come back as they went in.

A character without a token may vanish without a trace: the model then sees another question than the one
that is scored, or could not write the answer if it knew it.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from alpkit.config.environment import OUTPUT, EnvironmentConfig, ToolMathConfig
from alpkit.config.run import RunConfig
from alpkit.config.tasks import PLAIN_PROMPT, PromptConfig
from alpkit.errors import ConfigError
from alpkit.policy.checking import tokenizer_of
from alpkit.policy.loading import encode_prompt
from alpkit.policy.messages import Messages
from alpkit.policy.prompt_lengths import check_lengths
from alpkit.tasks import Item, train_items
from alpkit.tasks.evaluation import ask

TEXT_FIELDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("model", "revision", "task", "prompt", "eval", "evals"), True),
    "rollout": {"engine", "max_tokens", "filter"},
    "hardware": {"micro_batch_tokens"},
}
"""Fields of a run that decide which texts its model reads and writes, and how long they may be."""
CONVERSATION_FIELDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("model", "revision", "task", "prompt", "environment"), True),
    "rollout": {"engine", "max_tokens", "max_model_len"},
    "hardware": {"micro_batch_tokens"},
}
"""Fields of a run that decide how its model talks with an environment."""
_SPOKEN: Final = "```python\nprint(1)\n```\n\\boxed{42}"
"""What a model must be able to write to use the tool and to answer."""
_ITEMS = 20


@cache
def check_texts(run: str) -> None:
    """Refuse a run (its `TEXT_FIELDS` as JSON) of whose tasks the model's tokenizer loses parts, or prompts too long.

    Looks at 20 prompts and answers of the task that is trained on and of every evaluation set, and at the
    lengths of the former. Reads the tokenizer only; a built-in that is not converted yet is let through.
    """
    config = RunConfig.model_validate_json(run)
    tokenizer = tokenizer_of(config.model, config.revision)
    if tokenizer is None:
        return
    asked = ask(config)
    texts = {"task": (train_items(asked.task, seed=0, step=1, count=_ITEMS), config.prompt)}
    for index, entry in enumerate(asked.sets if config.evals else ()):
        texts[f"evals[{index}]"] = (list(entry.items[:_ITEMS]), entry.prompt)
    for where, (items, prompt) in texts.items():
        try:
            check_round_trip(tokenizer, items, prompt)
        except ConfigError as error:
            error.what, error.where = f"{config.model} cannot hold {error.what}", where
            raise
    check_lengths(tokenizer, asked, config)


@cache
def check_conversation(run: str) -> None:
    """Refuse a run (its `CONVERSATION_FIELDS` as JSON) whose model could not talk with its environment.

    Reads the tokenizer only.
    """
    config = RunConfig.model_validate_json(run)
    tokenizer = tokenizer_of(config.model, config.revision)
    if tokenizer is None or config.environment is None:
        return
    try:
        check_talk(tokenizer, config.environment, config.prompt)
    except ConfigError as error:
        error.what = error.what.replace("the model", config.model, 1)
        raise


def check_talk(
    tokenizer: PreTrainedTokenizerBase,
    environment: EnvironmentConfig,
    prompt: PromptConfig = PLAIN_PROMPT,
) -> None:
    """Raise `ConfigError` where the template has no place for replies, or the tokenizer loses what is said."""
    messages = Messages.of(tokenizer, prompt, stop_ids=(), role=environment.role)
    if not isinstance(environment, ToolMathConfig):
        return
    said = {
        "output": environment.output.replace(OUTPUT, "42"),
        "final_prompt": environment.final_prompt,
        "name": _SPOKEN,
    }
    for name, text in said.items():
        read = _decode(tokenizer, messages.ordinary(text))
        if _plain(text) != _plain(read):
            raise ConfigError(
                f"the model cannot hold the text {_short(text)}, which comes back as {_short(read)}",
                where=f"environment.{name}",
                why="what has no token vanishes: neither calls nor replies would be what they seem",
                fix="choose a model that can write code"
                if name == "name"
                else "write it in characters that the model knows",
            )


def check_round_trip(
    tokenizer: PreTrainedTokenizerBase,
    items: Iterable[Item],
    prompt: PromptConfig = PLAIN_PROMPT,
) -> None:
    """Raise `ConfigError` for the first prompt or answer that is another text after encoding and decoding.

    White space counts as one space, and compatible characters (NFKC) as equal.
    """
    for item in items:
        asked = item.prompt + prompt.suffix
        read = _decode(tokenizer, encode_prompt(tokenizer, item.prompt, prompt))
        for part in (prompt.system or "", asked):
            if _plain(part) not in _plain(read):
                raise _lost("prompt", part, read)
        ids = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        # What a task scores has no special tokens, so an unknown character's is no answer either.
        written = _decode(tokenizer, ids, skip_special_tokens=True)
        if _plain(item.answer) != _plain(written):
            raise _lost("answer", item.answer, written)


def _decode(
    tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], *, skip_special_tokens: bool = False
) -> str:
    text = tokenizer.decode(
        list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return str(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _lost(what: str, text: str, came: str) -> ConfigError:
    return ConfigError(
        f"the {what} {_short(text)}, which comes back as {_short(came)}",
        where="task",
        why="what has no token vanishes, so the model would be asked and scored on different texts",
        fix="choose a model that knows these characters, or a task that this one can write "
        "(builtin:tiny-addition knows the digits, + and =: task: {name: addition})",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
