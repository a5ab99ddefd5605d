"""reasoning-gym as a task: extraction that cannot be gamed, and configuration errors."""

import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.config.tasks import ReasoningGymConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.tasks import eval_items, load_task, split_of, train_items
from alpkit.tasks.matching import extract, matches
from alpkit.tasks.reasoning_gym import INSTRUCTION, ReasoningGym

reasoning_gym = pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize(
    "dataset",
    ["chain_sum", "gcd", "letter_counting", "spell_backward", "number_sorting", "mini_sudoku"],
)
def test_the_oracle_scores_one_and_the_question_nothing(dataset: str):
    task = ReasoningGym(dataset)
    for item in train_items(task, seed=0, step=0, count=20):
        assert task.score(item, item.answer) == 1.0
        assert task.score(item, f"I think so.\nThe answer is {item.answer}\n") == 1.0
        assert task.score(item, "") == 0.0
        assert task.score(item, "I do not know") == 0.0


def test_another_item_s_answer_scores_almost_nothing():
    task = ReasoningGym("chain_sum", {"min_digits": 3, "max_digits": 3})
    items = train_items(task, seed=0, step=0, count=200)
    rewards = [task.score(item, other.answer) for item, other in pairwise(items)]
    assert sum(rewards) <= 2


def test_splits_are_disjoint_and_hashed_by_question():
    task = ReasoningGym("chain_sum", {"min_terms": 2, "max_terms": 2, "max_digits": 2})
    train = {task.item("train", key).prompt for key in range(3000)}
    held_out = {task.item("eval", key).prompt for key in range(500)}
    assert train.isdisjoint(held_out)
    question = next(iter(held_out)).removesuffix(f"\n{INSTRUCTION}\n")
    assert split_of("reasoning_gym/chain_sum", question) == "eval"


def test_the_data_set_s_seed_does_not_leak_between_splits():
    """Neighbouring seeds share items in reasoning-gym; the split goes by question all the same."""
    train = {ReasoningGym("gcd", seed=0).item("train", key).prompt for key in range(300)}
    held_out = {ReasoningGym("gcd", seed=1).item("eval", key).prompt for key in range(300)}
    assert train.isdisjoint(held_out)


def test_items_are_a_function_of_config_split_and_key():
    one, other = ReasoningGym("chain_sum"), ReasoningGym("chain_sum")
    forward = [one.item("train", key) for key in range(10)]
    assert [other.item("train", key) for key in reversed(range(10))] == forward[::-1]
    assert ReasoningGym("chain_sum", seed=7).item("train", 0) != forward[0]


def test_a_data_set_that_holds_a_list_is_walked_within_it():
    task = ReasoningGym("list_functions", {"size": 60})
    prompts = {task.item("train", key).prompt for key in range(200)}
    assert 20 < len(prompts) <= 60
    with pytest.raises(ConfigError, match="cannot supply 61"):
        eval_items(task, 61)
    assert len(eval_items(task, 61, fewer=True)) < 61


def test_a_data_set_that_draws_from_the_global_generator_is_pure_all_the_same():
    """list_functions calls random.randint beside its own generator."""
    task = ReasoningGym("list_functions")
    random.seed(1)
    first = [task.item("train", key) for key in range(100)]
    after = random.random()
    assert [task.item("train", key) for key in range(100)] == first
    random.seed(1)
    assert random.random() == after


def test_a_data_set_in_hash_order_needs_a_fixed_hash_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(PrerequisiteError) as caught:
        ReasoningGym("ransom_note")
    assert "PYTHONHASHSEED=0" in caught.value.fix
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    item = ReasoningGym("ransom_note").item("train", 0)
    assert item.answer in ("True", "False")


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("7", "7", True),
        ("The answer is 7", "7", True),
        ("The answer is **7**.", "7", True),
        ("3 + 4 = 7", "7", True),
        ("7.0", "7", True),
        ("$1,234.50", "1234.5", True),
        ("x = -7", "-7", True),
        ("x = \N{MINUS SIGN}7", "-7", True),
        ("-7", "7", False),
        ("10-7", "-7", False),
        ("10-7", "7", True),
        ("17", "7", False),
        ("0.7", "7", False),
        ("7 or 8", "7", False),
        ("1 2 3 4 5 6 7 8 9", "7", False),
        ("7e5", "5", False),
        ("1/7", "7", False),
        ("7/7", "7", False),
        ("1e99999999999999999999", "7", False),
        ("seven", "7", False),
        ("", "7", False),
        # A number that is not written plainly is text: 0101 is not 101.
        ("101", "0101", False),
        ("0101", "0101", True),
        ("The answer is 0101.", "0101", True),
    ],
)
def test_numbers_compare_the_last_number(response: str, answer: str, right: bool):
    assert matches(response, answer) is right


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("True", "True", True),
        ("It cannot be False.\nTrue", "True", True),
        ("The answer is: True.", "True", True),
        ("Answer: `True`", "True", True),
        ("the final answer is \\boxed{True}", "True", True),
        ("The answer is\n\nTrue", "True", True),
        ("The answer is False. No: the answer is True", "True", True),
        ("true", "True", False),
        ("True False", "True", False),
        ("not True", "True", False),
        ("True\nFalse", "True", False),
        ("The answer is False. True", "True", False),
        ("The answer is True\nFalse", "True", True),
        ("(x+1)*(x-1) = x**2 - 1", "x**2 - 1", True),
        ("x**2 - 1 = 0", "x**2 - 1", False),
        ("A=1,B=2", "A=1,B=2", True),
        ("B=2", "A=1,B=2", False),
        ("'a', 'b'", "'a', 'b'", True),
        ("1 2\n3 4", "1 2\n3 4", True),
        ("Here:\n1  2\n\n3 4 ", "1 2\n3 4", True),
        ("The answer is\n1 2\n3 4", "1 2\n3 4", True),
        ("The answer is\n1 2\n3 4\n5 6", "1 2\n3 4", False),
        ("1 2 3 4", "1 2\n3 4", False),
        ("", "True", False),
        ("the answer is", "True", False),
    ],
)
def test_texts_compare_the_final_answer_exactly(response: str, answer: str, right: bool):
    assert matches(response, answer) is right


@given(st.text(max_size=60), st.from_regex(r"[a-z]{2,8}( [a-z]{2,8})?", fullmatch=True))
def test_text_before_the_marker_never_matters(noise: str, answer: str):
    assert matches(f"{noise}\nThe answer is {answer}.", answer)
    assert not matches(f"{answer}\nThe answer is {answer}x{noise}", answer)


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=6), st.integers(-999, 999))
def test_listing_numbers_pays_for_the_last_only(numbers: list[int], answer: int):
    assert matches(" ".join(map(str, numbers)), str(answer)) == (numbers[-1] == answer)


def test_extract_shows_what_is_compared():
    assert extract("The answer is 3 = x", cut_equals=True) == ["x"]
    assert extract("a\nb\nc", lines=2) == ["b", "c"]


def test_substring_credit_is_not_given_where_reasoning_gym_gives_it():
    entry = {"question": "", "answer": "7", "metadata": {}}
    peer = reasoning_gym.create_dataset("chain_sum").score_answer("7 or 8", entry)
    assert peer > 0
    assert not matches("7 or 8", "7")


def test_unknown_data_set_lists_close_names():
    with pytest.raises(ConfigError) as caught:
        ReasoningGym("chain_sums")
    assert caught.value.where == "task.dataset"
    assert "'chain_sum'" in caught.value.fix


def test_unknown_parameter_lists_close_and_allowed_names():
    with pytest.raises(ConfigError) as caught:
        ReasoningGym("chain_sum", {"max_term": 3})
    assert caught.value.where == "task.params.max_term"
    assert "'max_terms'" in caught.value.fix
    assert "min_digits" in caught.value.fix


def test_seed_is_not_a_parameter():
    with pytest.raises(ConfigError) as caught:
        ReasoningGym("chain_sum", {"seed": 3})
    assert "task.seed" in caught.value.why


@pytest.mark.parametrize("params", [{"min_terms": 0}, {"max_terms": "two"}])
def test_refused_values_are_config_errors(params: dict[str, object]):
    with pytest.raises(ConfigError, match="chain_sum refuses its parameters"):
        ReasoningGym("chain_sum", params)


def test_a_data_set_without_a_stored_answer_is_refused():
    with pytest.raises(ConfigError, match="graph_color stores no answer"):
        ReasoningGym("graph_color")


def test_a_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(PrerequisiteError) as caught:
        ReasoningGym("chain_sum")
    assert caught.value.fix == 'pip install "alpkit[tasks]"'


def test_load_task_builds_the_data_set():
    config = ReasoningGymConfig(
        name="reasoning_gym", dataset="chain_sum", params={"max_terms": 2}, seed=3
    )
    task = load_task(config)
    assert task.name == "reasoning_gym/chain_sum"
    assert task.item("train", 1) == ReasoningGym("chain_sum", {"max_terms": 2}, seed=3).item(
        "train", 1
    )
