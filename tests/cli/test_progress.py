"""What a running grid shows: the board's numbers, the live display at two widths, lines for a log, `--watch`."""

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from alpkit.cli.board import Board, duration, speed
from alpkit.cli.progress import Display, Lines
from alpkit.config import expand, load_ablation
from alpkit.launch import Ended, Started, Stepped
from alpkit.runs.folder import grid_folder
from alpkit.runs.lock import is_live
from alpkit.runs.steps import CellTracker, newest_step

METRICS = {"reward/mean": 0.5, "kl/k3": 0.001, "ratio/raw/token/width": 0.25}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make_grid(folder, **rest):
    data = {"name": "small", "base": {"train": {"steps": 12}}, "arms": ["grpo"], "seeds": [0, 1]}
    (folder / "grid.yaml").write_text(yaml.safe_dump({**data, **rest}))
    return {cell.cell_id: cell for cell in expand(load_ablation(folder / "grid.yaml")).cells}


def test_the_time_left_follows_from_the_steps_that_were_taken():
    clock = Clock()
    board = Board({"a": 10, "b": 10}, clock=clock)
    assert board.seconds_left() is None
    board.start("a", "a", 10)
    board.start("b", "b", 10)
    clock.now += 20
    board.step("a", 1, {})
    board.step("a", 5, {})
    assert (board.done, board.seconds_left()) == (5, 60.0)
    # b goes on from step 7: eight of its steps are behind it, and one was taken here.
    board.step("b", 8, {})
    assert (board.done, board.seconds_left()) == (13, pytest.approx(20 / 6 * 7))
    board.end("b")
    # What b will never do is not waited for.
    assert board.seconds_left() == pytest.approx(20 / 6 * 5)
    board.end("a")
    assert board.seconds_left() is None


def test_two_counts_of_tokens_give_a_speed():
    clock = Clock()
    board = Board({"a": 10}, clock=clock)
    board.start("a", "grpo", 10)
    board.step("a", 1, {**METRICS, "progress/tokens": 1000.0})
    assert board.running["a"].headline() == "reward 0.5  kl 0.001  width 0.25"
    clock.now += 4
    board.step("a", 2, {"progress/tokens": 6000.0})
    assert board.running["a"].headline().endswith("width 0.25  1,250 tok/s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (4, "4 s"),
        (89, "89 s"),
        (95, "2 min"),
        (5000, "83 min"),
        (3 * 3600, "3 h 0 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def test_speeds_in_words():
    assert [speed(v) for v in (1234.6, 10.4, 0.123)] == ["1,235", "10", "0.12"]


@pytest.mark.parametrize("width", [80, 150])
def test_the_display_keeps_numbers_whole_and_lines_within_the_terminal(tmp_path, width):
    arm = {"name": "an arm with a rather long name and=axes upper=2.5", "preset": "grpo"}
    cells = make_grid(tmp_path, arms=[arm])
    first, second = cells
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    show = Display(cells, console)
    show(Started(first))
    show(Started(second))
    show(Stepped(first, 6, {**METRICS, "progress/tokens": 10.0}))
    time.sleep(0.01)
    show(Stepped(first, 7, {**METRICS, "progress/tokens": 30.0}))
    with console.capture() as shown:
        console.print(show)
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "7/24 steps  0/2 cells" in lines[0]
    assert lines[1].split() == ["running", "step", "reward", "kl", "width", "tok/s"]
    assert re.search(r"7/12 +0\.5 +0\.001 +0\.25 +[\d,]+ *$", lines[2])
    assert ("seed=0" in lines[2]) is (width == 150)
    assert lines[3].split()[-5:] == ["0/12", "–", "–", "–", "–"]


def test_the_display_prints_failures_above_itself(tmp_path):
    cells = make_grid(tmp_path)
    first, second = cells
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    with Display(cells, console) as show:
        show(Started(first))
        show(Stepped(first, 12, METRICS))
        show(Ended(first, "finished"))
        show(Started(second))
        show(Ended(second, "failed", "ValueError: no\nTraceback"))
    shown = text.getvalue()
    assert f"failed: {second} grpo seed=1: ValueError: no" in shown
    assert "Traceback" not in shown
    assert "12/12 steps  2/2 cells" in shown.splitlines()[-2]


def test_lines_are_few_and_say_when_it_ends(tmp_path):
    cells = make_grid(tmp_path)
    first, second = cells
    text = io.StringIO()
    console = Console(file=text, width=60)
    with Lines(cells, console, every=0.05) as show:
        show(Started(first))
        for step in range(1, 12):
            show(Stepped(first, step, METRICS))
        time.sleep(0.06)
        show(Stepped(first, 12, METRICS))
        show(Ended(first, "finished"))
        show(Started(second))
        show(Ended(second, "failed", "ValueError: no\nTraceback"))
    started, whole, ended, _, failed = text.getvalue().splitlines()
    assert started == f"started   {first} grpo seed=0"
    assert re.match(r"\d\d:\d\d:\d\d  12/24 steps  0/2 cells  \d+ s  ETA \d+ s  ", whole)
    assert whole.endswith("grpo seed=0 12/12  reward 0.5  kl 0.001  width 0.25")
    assert re.fullmatch(
        rf"finished  {first} grpo seed=0 \(1/2\)  reward 0.5  kl 0.001  width 0.25  ETA \d+ s",
        ended,
    )
    assert failed == f"failed    {second} grpo seed=1 (2/2): ValueError: no"


def test_the_newest_step_is_the_last_whole_line(tmp_path):
    assert newest_step(tmp_path) is None
    tracker = CellTracker(tmp_path)
    tracker.log(0, {"reward/mean": 0.25})
    tracker.log(1, {"reward/mean": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    assert newest_step(tmp_path) == (1, {"reward/mean": 0.5})


def test_watch_follows_a_grid_that_another_process_runs(workplace, call):
    make_grid(workplace, arms=[{"name": "slow", "preset": "grpo", "model": "fake/slow"}])
    launch = (
        "from pathlib import Path\n"
        "from alpkit.config import expand, load_ablation\n"
        "from alpkit.launch import Options, run_grid\n"
        "run_grid(expand(load_ablation('grid.yaml')), Options(launcher='inline', "
        "trainer='tests.support.fake_trainer:train_cell'))"
    )
    assert call("show", "--watch")[0] == 2  # there is no grid yet
    process = subprocess.Popen([sys.executable, "-c", launch])
    try:
        folder = grid_folder(Path("."), "small")
        until = time.monotonic() + 300
        while not ((folder / "grid.json").exists() and is_live(folder)):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        code, out, _ = call("show", "small", "--watch", "--json")
    finally:
        process.wait(300)
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    kinds = [event["event"] for event in events]
    assert kinds.count("ended") == 2
    assert "stepped" in kinds
    assert events[-1]["state"] == "finished"
    last = [e for e in events if e["event"] == "stepped"][-1]
    assert last["metrics"] == {"reward": last["step"] / 64, "kl": 0.25, "width": 0.5}
    code, out, err = call("show", "small", "--watch")
    assert "small is not running" in err
    assert out.count("finished") == 2
