"""Hostile snippets, from root's process and from an ordinary user's: contained, told, and nothing outside changed.

Never skipped: where there is no bubblewrap, these tests fail.
"""

import os
from collections.abc import Iterator, Sequence

import pytest

from alpkit.config.environment import ToolMathConfig
from alpkit.config.tasks import PLAIN_PROMPT
from alpkit.policy.loading import load_tokenizer, local_folder
from alpkit.policy.messages import Messages
from alpkit.sandbox import Outcome, start
from alpkit.tasks import Item
from alpkit.tasks.environments.tool_math import ToolMath
from tests.sandbox.hostile import HOSTILE, LIMITS, Hostile, code_of, run_hostile
from tests.sandbox.outside import SECRET, Outside, as_ordinary_user, left_behind, outside

USERS = ("root", "ordinary user") if os.getuid() == 0 else ("ordinary user",)


@pytest.fixture(scope="module", params=USERS)
def run(request: pytest.FixtureRequest) -> Iterator[tuple[Outside, dict[str, Outcome]]]:
    """All snippets, run once for each user, beside what they must not reach."""
    with outside() as around, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", SECRET)
        runs = {"root": run_hostile, "ordinary user": as_ordinary_user}
        yield around, runs[request.param](around.found)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_snippet_is_contained_and_its_end_is_told(
    run: tuple[Outside, dict[str, Outcome]], hostile: Hostile
) -> None:
    outcome = run[1][hostile.name]
    assert "ESCAPED" not in outcome.output
    assert SECRET not in outcome.output
    if hostile.kind == "stopped":
        assert outcome.kind != "ok"
    else:
        assert outcome.kind == hostile.kind, outcome
    # What the model's next turn sees says how it ended, in its first tokens or in a text short enough to be kept.
    assert hostile.told in outcome.text
    assert outcome.text
    assert outcome.text.find(hostile.told) < 700


class Ended:
    """A sandbox in which every snippet has ended already."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def run_all(self, codes: Sequence[str]) -> list[Outcome]:
        assert len(codes) == 1
        return [self._outcome]

    def close(self) -> None: ...


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_the_models_next_turn_sees_how_it_ended_and_nothing_but_text(
    run: tuple[Outside, dict[str, Outcome]], hostile: Hostile, messages: Messages
) -> None:
    around, outcomes = run
    environment = ToolMath(ToolMathConfig(), Ended(outcomes[hostile.name]))
    state = environment.start(Item("6*7", "42"))
    state.turns = 3
    reply = environment.reply(state, f"```python\n{code_of(hostile, around.found)}```")
    assert reply is not None
    assert hostile.told in reply.text
    assert state.counts["calls"] == 1
    assert (state.answer, state.void) == ("", False)
    assert bool(state.counts["failed"] + state.counts["stopped"]) == (hostile.kind != "ok")
    # Of special tokens there are the template's own, whatever the output spells; so it ends no turn and opens none.
    empty = messages.after(0, reply._replace(text=""), limit=0)
    ids = messages.after(0, reply, limit=1 << 20)
    special = set(messages.tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [i for i in empty if i in special]
    assert hostile.told in messages.tokenizer.decode(ids)


@pytest.fixture(scope="module")
def messages() -> Messages:
    tokenizer = load_tokenizer(str(local_folder("builtin:tiny-tool")))
    return Messages.of(tokenizer, PLAIN_PROMPT, stop_ids=(tokenizer.eos_token_id,))


def test_nothing_outside_is_touched(run: tuple[Outside, dict[str, Outcome]]) -> None:
    around, outcomes = run
    assert len(outcomes) == len(HOSTILE) >= 40
    assert around.touched() == []


def test_nothing_is_left_running(run: tuple[Outside, dict[str, Outcome]]) -> None:
    assert left_behind() == []


def test_what_a_snippet_leaves_is_gone_before_the_next() -> None:
    with start(limits=LIMITS, workers=1) as sandbox:
        before = len(left_behind())
        outcome = sandbox.run(code_of(next(h for h in HOSTILE if h.name == "leaves a daemon"), {}))
        assert outcome.text == "gone"
        worker = left_behind()
        assert len(worker) == 2, (before, worker)  # bubblewrap, and the worker inside
        seen = sandbox.run("import os; print(os.listdir('/tmp'), os.getpid())")
        assert seen.text == "[] 2"


def test_a_snippet_cannot_change_the_next() -> None:
    change = "import builtins, math, sys\nbuiltins.print = None\nmath.pi = 3\nsys.modules['json'] = None\nx = 1\n"
    with start(limits=LIMITS, workers=1) as sandbox:
        assert sandbox.run(change).kind == "ok"
        after = sandbox.run("import math, json\nprint(math.pi, 'x' in globals())")
    assert after.text == "3.141592653589793 False"


def test_the_snippets_bite_where_nothing_isolates() -> None:
    # What contains them is the sandbox, not a mistake in the snippets.
    names = ("/etc", "the trainer's port", "abstract unix socket", "writes outside", "memory file")
    with outside() as around, start("weak", limits=LIMITS, workers=1) as sandbox:
        for hostile in HOSTILE:
            if hostile.name in names:
                outcome = sandbox.run(code_of(hostile, around.found))
                assert "ESCAPED" in outcome.output, hostile.name
        assert len(around.touched()) == 3
