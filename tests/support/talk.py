"""Conversations without a model: a chat tokenizer over characters, and samplers that say what a test tells them."""

from collections import Counter
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alpkit.config import environment
from alpkit.rollout import Response
from alpkit.tasks import plugins
from alpkit.tasks.environments import Reply, State

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template=CHATML):
    """Characters, two special tokens of ChatML, and one added token that is not flagged special."""
    alphabet = ["<unk>", *map(chr, range(10, 127))]
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|im_end|>", chat_template=template
    )
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    own.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return own


class Script:
    """Says the next text of a request's script, which its first token names; an end token follows, if there is room."""

    def __init__(self, tokenizer, scripts):
        self.tokenizer, self.scripts, self.asked = tokenizer, [list(s) for s in scripts], []
        self.turns = Counter()

    def __call__(self, requests, limit):
        self.asked.append(list(requests))
        said = []
        for request in requests:
            row = request.prompt_ids[0]
            text = self.scripts[row][self.turns[row]]
            self.turns[row] += 1
            ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"]]
            ids.append(self.tokenizer.eos_token_id)
            room = request.limit(limit)
            done = "stop" if len(ids) <= room else "length"
            ids = tuple(ids[:room])
            said.append(Response(ids, tuple(-0.5 for _ in ids), done))
        return said


@dataclass(frozen=True)
class Ended:
    """How a block of code ended."""

    kind: str
    text: str


class InProcess:
    """A sandbox of tests: evaluates `print(<expression>)` in this process."""

    def __init__(self):
        self.codes = []

    def run_all(self, codes):
        self.codes += codes
        return [self._run(code) for code in codes]

    def _run(self, code):
        if code.strip() == "spin":
            return Ended("time", "stopped after 5 s")
        try:
            return Ended("ok", str(eval(code.strip().removeprefix("print(").removesuffix(")"))))
        except Exception as error:
            return Ended("error", f"{type(error).__name__}: {error}")

    def close(self):
        pass


class AskAgain:
    """An environment of sums: a wrong answer is asked again; one that is no number is void and ends it."""

    def start(self, item):
        return State(item)

    def reply(self, state, text):
        state.answer, state.void = text.strip(), not text.strip().isdigit()
        state.rewards.append(0.25 * (state.answer == state.item.answer))
        state.counts["answered"] += not state.void
        if state.void or state.answer == state.item.answer:
            return None
        return Reply(state.item.prompt)

    def close(self):
        pass


def offer(patch):
    """Offer `AskAgain` as a package would, under the name ask_again; `patch` is a MonkeyPatch."""
    build = plugins.build_environment
    patch.setattr(environment, "environment_names", lambda: ("ask_again",))
    patch.setattr(
        plugins,
        "build_environment",
        lambda name, params: AskAgain() if name == "ask_again" else build(name, params),
    )
