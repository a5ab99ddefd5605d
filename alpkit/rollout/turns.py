"""Sample responses of several turns: the model's turn, the environment's reply, until one of them ends it.

    answering = Answering(decode, environment, messages, config.environment)
    conversations = answering(generate, requests, items, max_tokens)

Every turn is a request of its own whose prompt is all that came before, token by token: vLLM finds the keys and
values of that prefix in its cache, transformers computes them again. A response's own stream of draws is derived
anew for each turn. Not here: what an environment answers (`alpkit.tasks.environments`), how a message becomes
tokens (`alpkit.policy.messages`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from alpkit.config.environment import EnvironmentConfig
from alpkit.policy.messages import Messages
from alpkit.rollout import FinishReason, Request, Response
from alpkit.seeds import derive
from alpkit.tasks import Item
from alpkit.tasks.environments import Environment, State, reply_all

Generate = Callable[[Sequence[Request], int], list[Response]]
"""Samples one turn per request; the number bounds those that have no `max_tokens` of their own."""


class Limits(NamedTuple):
    """Most turns, and longest turn, reply and response in tokens; a response holds its turns and replies."""

    turns: int
    turn: int
    reply: int
    response: int


class Speech(NamedTuple):
    """Translation of tokens into the text of a turn, and of a reply into tokens."""

    decode: Callable[[Response], str]
    messages: Messages


class Conversation(NamedTuple):
    """A response, and what its environment says of it."""

    response: Response
    text: str
    """What the task scores."""
    void: bool = False
    rewards: tuple[float, ...] = ()
    """The turns' own rewards, beside the task's; empty for a response of one turn."""
    counts: Mapping[str, int] = {}
    """What the environment counted."""


class Answering(NamedTuple):
    """Answering of a run's requests with responses and their texts: in one turn, or in a conversation."""

    decode: Callable[[Response], str]
    environment: Environment | None = None
    messages: Messages | None = None
    config: EnvironmentConfig | None = None

    def __call__(
        self,
        generate: Generate,
        requests: Sequence[Request],
        items: Sequence[Item],
        max_tokens: int,
    ) -> list[Conversation]:
        """Sample one response per request, of at most `max_tokens`; `items` are what is asked."""
        if self.environment is None or self.messages is None or self.config is None:
            responses = generate(requests, max_tokens)
            return [Conversation(response, self.decode(response)) for response in responses]
        limits = Limits(
            turns=self.config.turns,
            turn=min(self.config.turn_tokens or max_tokens, max_tokens),
            reply=self.config.reply_tokens,
            response=max_tokens,
        )
        speech = Speech(self.decode, self.messages)
        return converse(generate, requests, items, self.environment, limits, speech)

    def close(self) -> None:
        """Free what the environment holds."""
        if self.environment is not None:
            self.environment.close()


@dataclass
class _Growing:
    """A response while it grows."""

    request: Request
    state: State
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    finish: FinishReason | None = None

    def next_request(self, limits: Limits) -> Request:
        turn, prompt = self.state.turn, (*self.request.prompt_ids, *self.ids)
        seed = self.request.seed if turn == 0 else derive(self.request.seed, "turn", turn)
        return Request(prompt, seed, min(limits.turn, limits.response - len(self.ids)))

    def add(self, ids: Sequence[int], logp: Sequence[float], *, sampled: bool) -> None:
        self.ids += ids
        self.logp += logp
        self.sampled += [sampled] * len(ids)
        self.turn += [self.state.turn] * len(ids)

    def result(self) -> Conversation:
        response = Response(
            tuple(self.ids),
            tuple(self.logp),
            self.finish or "length",
            tuple(self.sampled),
            tuple(self.turn),
        )
        rewards = [*self.state.rewards, *[0.0] * (self.state.turn + 1 - len(self.state.rewards))]
        state = self.state
        return Conversation(response, state.answer, state.void, tuple(rewards), dict(state.counts))


def converse(
    generate: Generate,
    requests: Sequence[Request],
    items: Sequence[Item],
    environment: Environment,
    limits: Limits,
    speech: Speech,
) -> list[Conversation]:
    """Sample one conversation per request, all of them turn by turn together.

    A response ends when the environment has no reply, after its last turn, or where a reply would leave no room for
    another token (`finish` is then `length`: the reply is left out).
    """
    growing = []
    for request, item in zip(requests, items, strict=True):
        state = environment.start(item)
        state.turns = limits.turns
        growing.append(_Growing(request, state))
    alive = list(growing)
    while alive:
        turns = generate([each.next_request(limits) for each in alive], limits.turn)
        for each, turn in zip(alive, turns, strict=True):
            each.add(turn.token_ids, turn.logp, sampled=True)
        replies = reply_all(
            environment, [each.state for each in alive], [speech.decode(turn) for turn in turns]
        )
        going = []
        for each, turn, reply in zip(alive, turns, replies, strict=True):
            if reply is None or each.state.last:
                each.finish = turn.finish
                continue
            message = speech.messages.after(each.ids[-1], reply, limit=limits.reply)
            if len(each.ids) + len(message) >= limits.response:
                each.finish = "length"
                continue
            # A message leads to the turn after it, and belongs to that turn.
            each.state.turn += 1
            each.add(message, [0.0] * len(message), sampled=False)
            going.append(each)
        alive = going
    return [each.result() for each in growing]
