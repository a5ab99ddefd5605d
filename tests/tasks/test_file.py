"""Data files as tasks: formats, nested columns, epochs, splits, and one clear error for each fault."""

import json
import sys

import pandas as pd
import pytest

pytest.importorskip("datasets")

import datasets

from alpkit.config.tasks import FileConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.tasks import eval_items, load_task, split_of, train_items

ROWS = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    pd.DataFrame(ROWS).to_parquet(place / "p.parquet")
    pd.DataFrame(ROWS).to_csv(place / "p.csv", index=False)
    (place / "p.json").write_text(json.dumps(ROWS))
    (place / "p.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return place


def task_of(path, *, check=True, **settings):
    settings = {"grader": "number", **settings}
    return load_task(FileConfig(name="file", path=str(path), **settings), check=check)


def write(place, rows):
    path = place / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.json", "p.jsonl"])
def test_every_format_gives_the_same_items(folder, name):
    task = task_of(folder / name)
    assert len(task.train) + len(task.held_out) == 60
    assert [i.prompt for i in task.train] == [
        row["prompt"] for row in ROWS if split_of("file", row["prompt"]) == "train"
    ]
    item = task.train[3]
    assert task.score(item, f"It is {item.answer}") == 1
    assert task.score(item, f"It is {item.answer}1") == 0


def test_an_epoch_is_a_permutation_and_each_one_another(folder):
    task = task_of(folder / "p.jsonl")
    size = len(task.train)
    seen = [
        item.prompt
        for step in range(1, 3 * size // 4 + 2)
        for item in train_items(task, 7, step, 4)
    ]
    epochs = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
    assert len(epochs) >= 3
    assert all(len(set(epoch)) == size for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert seen[:4] != [item.prompt for item in train_items(task, 8, 1, 4)]
    # Pinned: recorded runs are compared by prompt.
    assert [i.prompt for i in train_items(task, 0, 1, 3)] == [
        i.prompt for i in train_items(task_of(folder / "p.csv"), 0, 1, 3)
    ]


def test_evaluation_is_disjoint_and_does_not_follow_the_file(folder):
    task = task_of(folder / "p.jsonl")
    held_out = eval_items(task, None)
    assert {i.prompt for i in held_out}.isdisjoint(i.prompt for i in task.train)
    assert len(held_out) >= 3
    assert held_out != sorted(held_out, key=lambda item: int(item.answer))
    with pytest.raises(ConfigError, match="cannot supply 99"):
        eval_items(task, 99)


@pytest.mark.parametrize(("held_out", "train", "held"), [("all", 0, 60), ("none", 60, 0)])
def test_a_file_may_be_all_training_or_all_evaluation(folder, held_out, train, held):
    task = task_of(folder / "p.jsonl", held_out=held_out)
    assert (len(task.train), len(task.held_out)) == (train, held)
    with pytest.raises(ConfigError, match=r"no (train|eval) question|none is held out"):
        train_items(task, 0, 1, 1) if not train else eval_items(task, None)


def test_published_columns_nested_mappings_chat_messages_and_markers(tmp_path):
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Box it."},
                {"role": "user", "content": f"Q{n}"},
            ],
            "reward_model": {"ground_truth": f"Because. #### {n}"},
        }
        for n in range(30)
    ]
    task = task_of(write(tmp_path, rows), answer="reward_model.ground_truth", answer_after="####")
    assert {(i.prompt, i.answer) for i in (*task.train, *task.held_out)} == {
        (f"Q{n}", str(n)) for n in range(30)
    }


def test_a_question_that_stands_twice_is_kept_once(tmp_path):
    task = task_of(write(tmp_path, [*ROWS, *ROWS[:5]]))
    assert len(task.train) + len(task.held_out) == 60


@pytest.mark.parametrize(
    ("rows", "settings", "where", "message"),
    [
        ([], {}, "task.path", "has no rows"),
        (ROWS, {"prompt": "question"}, "task.prompt", "no column 'question'"),
        (ROWS, {"answer": "gold.x"}, "task.answer", "no column 'gold'"),
        ([*ROWS, {"prompt": "Q", "answer": "five"}], {}, "task.answer", "cannot read 1 of 61"),
        ([*ROWS, {"prompt": "Q", "answer": ""}], {}, "row 60", "column answer holds no text"),
        ([*ROWS, {"prompt": "", "answer": "1"}], {}, "row 60", "column prompt holds no text"),
        ([*ROWS, {**ROWS[0], "answer": "9"}], {}, "row 60", "one question has two answers"),
        (ROWS, {"answer_after": "####"}, "row 0", "does not contain '####'"),
    ],
)
def test_bad_data_is_one_error_with_its_place(tmp_path, rows, settings, where, message):
    with pytest.raises(ConfigError, match=message) as caught:
        task_of(write(tmp_path, rows), **settings)
    assert where in caught.value.where
    assert caught.value.fix


def test_a_gold_answer_that_the_maths_grader_cannot_read_is_named(tmp_path):
    pytest.importorskip("math_verify")
    rows = [{"prompt": "Q", "answer": r"\frac{1}{2"}, {"prompt": "R", "answer": r"\frac{1}{2}"}]
    with pytest.raises(ConfigError, match="cannot read 1 of 2") as caught:
        task_of(write(tmp_path, rows), grader="math")
    assert "row 0" in caught.value.why
    assert "braces do not match" in caught.value.why


def test_missing_files_endings_and_broken_lines_say_what_to_do(tmp_path):
    with pytest.raises(PrerequisiteError, match="does not exist"):
        task_of(tmp_path / "no.parquet")
    with pytest.raises(ConfigError, match="is no data file"):
        task_of(tmp_path)
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"prompt": "a", "answer": "1"}\n{oops\n')
    with pytest.raises(ConfigError, match="cannot be read as json") as caught:
        task_of(broken)
    assert "line 2" in caught.value.why


def test_a_hub_id_offline_is_one_clear_error(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        PrerequisiteError, match=r"some/set .split train. cannot be loaded"
    ) as caught:
        task_of("some/set")
    assert "OfflineMode" in caught.value.why
    assert "name the file" in caught.value.fix.replace("\n", " ")


def test_a_missing_package_names_the_install_line(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PrerequisiteError) as caught:
        task_of(folder / "p.jsonl")
    assert caught.value.fix == 'pip install "alpkit[tasks]"'
