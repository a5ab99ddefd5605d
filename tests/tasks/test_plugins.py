"""Tasks of other packages: the one on docs/extend.md is installed from its blocks, checked and trained on."""

import re
import sys
from pathlib import Path
from random import Random

import pytest

from alpkit.config import RunConfig
from alpkit.config.tasks import PluginTaskConfig, plugin_names
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.tasks import Item, first_in_split, load_task, train_items
from alpkit.tasks.contract import ContractError, check_task

PAGE = Path(__file__).parents[2] / "docs/extend.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def block(kind, holds):
    return next(text for language, text in BLOCKS if language == kind and holds in text)


@pytest.fixture
def countdown(tmp_path, monkeypatch):
    """The page's package, as pip would leave it: a module, and metadata with the entry points."""
    package = tmp_path / "countdown"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(block("python", "class Countdown"))
    points = (
        block("toml", "entry-points").replace('[project.entry-points."', "[").replace('"]', "]")
    )
    info = tmp_path / "countdown-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: countdown\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points.replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "countdown"]:
        del sys.modules[name]


def test_the_page_s_task_keeps_the_contract(countdown):
    exec(compile(block("python", "check_task"), "extend.md", "exec"), space := {})
    space["test_countdown_keeps_the_contract"]()
    check_task("countdown", params={"highest": 800})


def test_the_page_s_task_is_a_task_like_any_other(countdown):
    assert "countdown" in plugin_names()
    config = RunConfig.model_validate({"task": {"name": "countdown", "params": {"highest": 800}}})
    assert config.task == PluginTaskConfig(name="countdown", params={"highest": 800})
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    task = load_task(config.task)
    (item,) = train_items(task, 0, 1, 1)
    assert task.score(item, item.answer) == 1
    with pytest.raises(ConfigError, match="refuses its parameters") as caught:
        load_task(PluginTaskConfig(name="countdown", params={"highest": 3}))
    assert "use 20 or more" in caught.value.why
    with pytest.raises(ConfigError, match="refuses its parameters"):
        load_task(PluginTaskConfig(name="countdown", params={"lowest": 3}))


@pytest.mark.slow
def test_the_page_s_task_can_be_trained_on(countdown, tmp_path):
    from alpkit.runs.steps import CellTracker
    from alpkit.trainer import train_cell

    data = {
        "task": {"name": "countdown", "params": {"highest": 800}},
        "rollout": {"prompts": 4, "group": 2},
        "train": {"steps": 1, "updates_per_rollout": 2},
        "eval": {"items": 8, "k": 2},
    }
    train_cell(RunConfig.model_validate(data), tmp_path / "cell", CellTracker(tmp_path / "cell"))
    assert (tmp_path / "cell" / "metrics.jsonl").read_text().count("\n") == 2


def test_a_name_that_nobody_offers_lists_what_there_is():
    with pytest.raises(PrerequisiteError, match="no installed package offers the task 'nosuch'"):
        load_task(PluginTaskConfig(name="nosuch"))


def test_a_package_that_cannot_be_imported_is_told_as_such(countdown):
    (countdown / "countdown" / "tasks.py").write_text("import nowhere_at_all\n")
    with pytest.raises(PrerequisiteError, match="cannot be imported") as caught:
        load_task(PluginTaskConfig(name="countdown"))
    assert "nowhere_at_all" in caught.value.why


class Sums:
    """A good task; the ones below break one promise each."""

    name = "sums"

    def item(self, split, key):
        return first_in_split(self.name, split, key, self.candidate)

    def candidate(self, stream):
        draw = Random(stream)
        a, b = draw.randint(1, 999), draw.randint(1, 999)
        return f"{a}+{b}", Item(f"{a}+{b}", str(a + b))

    def score(self, item, response):
        return float(response == item.answer)


class Generous(Sums):
    def score(self, item, response):
        return 1.0 if response == item.answer else 0.3


class Unsolvable(Sums):
    def score(self, item, response):
        return 0.0


class Leaky(Sums):
    def item(self, split, key):
        return self.candidate(key % 100)[1]


class HashOrdered(Sums):
    def candidate(self, stream):
        a, b = sorted({hash(f"{stream}{n}") % 999 for n in range(4)})[:2]
        return f"{a}+{b}", Item(f"{a}+{b}", str(a + b))


class Forgetful(Sums):
    counter = 0

    def candidate(self, stream):
        Forgetful.counter += 1
        return super().candidate(stream + Forgetful.counter)


class Copied(Sums):
    def score(self, item, response):
        return float(response in (item.answer, item.prompt))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("Generous", "an empty response scores 0.30"),
        ("Unsolvable", "the right answer scores 0, not 1"),
        ("Leaky", "are also trained on"),
        ("HashOrdered", "PYTHONHASHSEED=1 sees other items"),
        ("Forgetful", "same key gives another item|sees other items"),
        ("Copied", "the question itself scores 1.00"),
    ],
)
def test_each_broken_promise_is_found(broken, message):
    with pytest.raises(ContractError, match=message) as caught:
        check_task(f"tests.tasks.test_plugins:{broken}")
    assert caught.value.fix


def test_a_good_task_and_alpkit_s_own_keep_the_contract():
    check_task("tests.tasks.test_plugins:Sums")
    check_task("alpkit.tasks.addition:Addition", params={"digits": 3})
