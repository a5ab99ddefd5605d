r"""Mathematics with Python: which code is run, what ends a response, what is void, what is scored."""

import pytest

from alpkit.config.environment import ToolMathConfig
from alpkit.tasks import Item
from alpkit.tasks.environments.tool_math import ToolMath, read_turn
from tests.support.talk import InProcess

CALL = "Let me see.\n```python\nprint(6 * 7)\n```\n"
ITEM = Item("6 * 7?", "42")


def environment(**settings):
    return ToolMath(ToolMathConfig(**settings), InProcess())


def begin(own, turns=5):
    state = own.start(ITEM)
    state.turns = turns
    return state


@pytest.mark.parametrize(
    ("text", "code", "answers"),
    [
        (CALL, "print(6 * 7)\n", False),
        (CALL + "```python\nprint(1)\n```", "print(6 * 7)\n", False),  # the first block
        ("```python\nprint(1)", None, False),  # never closed: cut off, or still being written
        ("```\nprint(1)\n```", None, False),
        ("```py\nprint(1)\n```", None, False),
        ("```python\r\nprint(1)\r\n```", "print(1)\r\n", False),
        (r"so \boxed{42}", None, True),
        (CALL + r"\boxed{42}", "print(6 * 7)\n", True),
        (r"so \boxed{42", None, False),  # does not close
        (r"\boxed{}", None, False),
        ("I cannot tell.", None, False),
        ("", None, False),
    ],
)
def test_a_turn_is_its_first_closed_block_and_whether_a_box_closes(text, code, answers):
    assert read_turn(text) == (code, answers)


def test_code_is_run_and_its_output_comes_back_until_an_answer_ends_it():
    own = environment(output="<{output}>", final_prompt="LAST")
    state = begin(own)
    reply = own.reply(state, CALL)
    assert (reply.before, reply.text, reply.after) == ("<", "42", ">")
    state.turn = 1
    assert own.reply(state, r"It is \boxed{42}.") is None
    assert state.answer == r"It is \boxed{42}."
    assert not state.void
    assert dict(state.counts) == {"answered": 1, "calls": 1}


def test_the_turn_before_the_last_is_followed_by_the_final_prompt_and_in_the_last_nothing_is_run():
    own = environment(final_prompt="LAST")
    state = begin(own, turns=3)
    assert "LAST" not in own.reply(state, CALL).after
    state.turn = 1
    assert own.reply(state, CALL).after.endswith("LAST")
    state.turn = 2
    assert own.reply(state, CALL) is None
    assert len(own._sandbox.codes) == 2
    # Code where an answer was asked for is no void turn, and no answer.
    assert (state.void, state.answer) == (False, "")


@pytest.mark.parametrize("turn", [0, 1, 4])
def test_a_turn_with_neither_code_nor_answer_is_void_and_ends_the_response(turn):
    own = environment()
    state = begin(own)
    state.turn = turn
    assert own.reply(state, "The answer is 42.") is None
    assert state.void
    assert state.answer == ""  # so that no grader finds the number in it


def test_errors_and_limits_are_counted_and_reach_the_model():
    own = environment()
    state = begin(own)
    assert (
        own.reply(state, "```python\nprint(1 / 0)\n```").text
        == "ZeroDivisionError: division by zero"
    )
    state.turn = 1
    assert own.reply(state, "```python\nspin\n```").text == "stopped after 5 s"
    assert dict(state.counts) == {"answered": 0, "calls": 2, "failed": 1, "stopped": 1}


def test_code_that_runs_earns_its_reward_once_a_turn():
    own = environment(code_reward=0.1)
    state = begin(own)
    for turn, text in enumerate([CALL, "```python\nprint(1 / 0)\n```", r"\boxed{42}"]):
        state.turn = turn
        own.reply(state, text)
    assert state.rewards == [0.1, 0.0, 0.0]


def test_many_responses_are_answered_together_in_their_order():
    own = environment()
    states = [begin(own) for _ in range(3)]
    texts = ["```python\nprint(1)\n```", r"\boxed{2}", "```python\nprint(3)\n```"]
    replies = own.reply_all(states, texts)
    assert [reply and reply.text for reply in replies] == ["1", None, "3"]
