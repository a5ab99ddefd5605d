"""Boxes, the pool of processes and its hard kill, and the shipped problems against their computations."""

import os
import threading
import time
from itertools import pairwise

import pytest

pytest.importorskip("math_verify")

from alpkit.config.tasks import MathConfig
from alpkit.tasks import eval_items, load_task, split_of, train_items
from alpkit.tasks.math import check_problems, problems
from alpkit.tasks.math.grader import MathGrader, last_boxed
from alpkit.tasks.math.pool import Pool

HANGS = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def grader():
    grader = MathGrader(tail=300, deadline=60.0)
    yield grader
    grader.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So \boxed{4}.", "4"),
        (r"First \boxed{3}, no: \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{4", None),
        (r"\boxed{3} then \boxed{4", None),
        (r"\boxed{}", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_last_closed_box_is_the_answer(response, answer):
    assert last_boxed(response, tail=300) == answer


def test_a_box_before_the_tail_does_not_count():
    ramble = " word" * 300
    assert last_boxed(r"\boxed{4}" + ramble, tail=300) is None
    assert last_boxed(r"\boxed{4}" + ramble, tail=301) == "4"
    assert last_boxed(r"\boxed{4 + 5}" + " word" * 298, tail=300) is None  # cut through the box


def test_every_shipped_gold_answer_is_what_its_computation_gives():
    assert check_problems.faults() == []


def test_the_shipped_problems_are_many_varied_and_distinct():
    known = problems()
    assert len(known) >= 200
    assert {problem["level"] for problem in known} == {1, 2, 3, 4}
    assert len({problem["topic"] for problem in known}) >= 13
    assert len({problem["problem"] for problem in known}) == len(known)
    assert len({problem["id"] for problem in known}) == len(known)


def test_every_shipped_item_scores_one_for_its_gold_and_nothing_for_its_neighbours(grader):
    golds = [problem["answer"] for problem in problems()]
    right = grader.grade([(gold, rf"Thus \boxed{{{gold}}}.") for gold in golds])
    assert right.rewards == [1.0] * len(golds)
    wrong = grader.grade(
        [(gold, rf"\boxed{{{other}}}") for gold, other in pairwise(golds) if gold != other]
    )
    assert sum(wrong.rewards) == 0
    assert (right.timeouts, right.failures, wrong.timeouts, wrong.failures) == (0, 0, 0, 0)
    assert grader.faults(golds) == {}


def test_the_question_itself_is_no_answer(grader):
    asked = [("12", r"\boxed{7 + 5}"), ("391", r"\boxed{17 \cdot 23}"), ("1024", r"\boxed{2^{10}}")]
    assert grader.grade(asked).rewards == [0.0, 0.0, 0.0]


def test_a_hung_check_costs_its_deadline_and_nothing_else():
    grader = MathGrader(tail=300, deadline=2.0)
    grader.grade([("x+1", r"\boxed{1+x}")])  # started
    pairs = [("2^{100}+x", rf"\boxed{{{HANGS}}}")] + [
        (f"{n}+x", rf"\boxed{{x+{n}}}") for n in range(20)
    ]
    start = time.monotonic()
    scores = grader.grade(pairs)
    took = time.monotonic() - start
    assert scores.rewards == [0.0] + [1.0] * 20
    assert (scores.timeouts, scores.failures) == (1, 0)
    assert took >= 2.0
    assert took < 45.0  # the deadline, and starts of processes on a busy machine
    grader.close()


def test_grading_works_outside_the_main_thread(grader):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(grader.grade([(r"\sqrt{12}", r"\boxed{2\sqrt{3}}")]).rewards)
    )
    thread.start()
    thread.join()
    assert found == [[1.0]]


def test_a_check_that_takes_all_memory_or_breaks_down_scores_nothing():
    pool = Pool(deadline=60.0, processes=1)
    results = pool.run([{"gold": "{", "answer": "1"}, {"gold": "x", "answer": "x"}])
    assert "error" in results[0]  # no gold that was checked is like this one
    assert results[1] == {"right": True}
    (pid,) = pool.pids
    os.kill(pid, 9)
    assert pool.run([{"gold": "x", "answer": "x"}])[0] == {"error": "the grading process ended"}
    assert pool.run([{"gold": "x", "answer": "x"}])[0] == {"right": True}
    pool.close()


def test_ten_thousand_gradings_leak_no_process():
    pool = Pool(deadline=60.0, processes=2)
    seen = set()
    for part in range(10):
        tasks = [{"gold": str(n), "answer": str(n + n % 2)} for n in range(1000)]
        results = pool.run(tasks)
        seen |= set(pool.pids)
        assert [result["right"] for result in results] == [n % 2 == 0 for n in range(1000)], part
        assert len(pool.pids) <= 2
    assert len(seen) >= 3  # processes are replaced after some thousands
    left = list(pool.pids)
    assert not any(alive(pid) for pid in seen - set(left))
    pool.close()
    assert not any(alive(pid) for pid in seen)


def test_a_forgotten_pool_ends_its_processes():
    pool = Pool(deadline=60.0, processes=1)
    pool.run([{"gold": "x", "answer": "x"}])
    (pid,) = pool.pids
    del pool
    assert not alive(pid)


def test_math_trains_in_epochs_and_evaluates_what_it_never_trains_on():
    task = load_task(MathConfig(name="math", levels=(1, 2)))
    held_out = {item.prompt for item in eval_items(task, None)}
    assert all(split_of("math", prompt) == "eval" for prompt in held_out)
    train = [item.prompt for step in range(1, 40) for item in train_items(task, 0, step, 4)]
    assert held_out.isdisjoint(train)
    size = len(task.train)
    for start in range(0, len(train) - size, size):
        assert len(set(train[start : start + size])) == size
