"""Whether a model's tokenizer can hold what a task asks: prompts and answers come back as they went in.

A character without a token may vanish without a trace: the model then sees another question than the one
that is scored, or could not write the answer if it knew it.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache

from pydantic import TypeAdapter
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alpkit.config.run import TaskConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.loading import BUILTINS, converted_folder, encode_prompt
from alpkit.tasks import Item, load_task, train_items

_ITEMS = 20
_TASK: TypeAdapter[TaskConfig] = TypeAdapter(TaskConfig)


@cache
def check_texts(name: str, revision: str | None, task: str) -> None:
    """Refuse a task (its section as JSON) of whose prompts and answers the model's tokenizer loses parts.

    Reads the tokenizer only; looks at 20 items. A built-in that is not converted yet is let through.
    """
    folder = converted_folder(name)
    if folder is None and name in BUILTINS:
        return
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder or name, revision=None if folder else revision
        )
    except (OSError, ValueError, KeyError) as error:
        lines = str(error).strip().splitlines()
        raise PrerequisiteError(
            f"the tokenizer of model {name} cannot be loaded",
            where="model",
            why=lines[0] if lines else type(error).__name__,
            fix="give a folder or hub id that has a tokenizer",
        ) from error
    items = train_items(load_task(_TASK.validate_json(task)), seed=0, step=1, count=_ITEMS)
    try:
        check_round_trip(tokenizer, items)
    except ConfigError as error:
        error.what = f"{error.what} under the tokenizer of {name}"
        raise


def check_round_trip(tokenizer: PreTrainedTokenizerBase, items: Iterable[Item]) -> None:
    """Raise `ConfigError` for the first prompt or answer that is another text after encoding and decoding.

    White space counts as one space, and compatible characters (NFKC) as equal.
    """
    for item in items:
        prompt = _decode(tokenizer, encode_prompt(tokenizer, item.prompt))
        if _plain(item.prompt) not in _plain(prompt):
            raise _lost("prompt", item.prompt, prompt)
        ids = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        # What a task scores has no special tokens, so an unknown character's is no answer either.
        answer = _decode(tokenizer, ids, skip_special_tokens=True)
        if _plain(item.answer) != _plain(answer):
            raise _lost("answer", item.answer, answer)


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
        f"the {what} {_short(text)} comes back as {_short(came)}",
        where="task",
        why="what has no token vanishes, so the model would be asked and scored on different texts",
        fix="choose a model that knows these characters, or a task that this one can write "
        "(builtin:tiny-addition knows the digits, + and =: task: {name: addition})",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
