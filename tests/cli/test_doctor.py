"""`alpkit doctor`: findings about a machine, and a gap explained as table, figure and JSON."""

import json
import socket

import pytest

from alpkit.launch import checkup


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Importing vllm takes half a minute; its check has a test of its own.
    real = checkup.importlib.util.find_spec
    monkeypatch.setattr(
        checkup.importlib.util, "find_spec", lambda name: None if name == "vllm" else real(name)
    )


def test_every_check_has_a_finding_and_nothing_is_left_behind(call, workplace):
    before = sorted(path.name for path in workplace.iterdir())
    code, out, _ = call("doctor", "--json")
    found = {each["what"]: each for each in json.loads(out)}
    assert set(found) == {
        *("versions", "extras", "devices", "threads", "vllm", "tracking store", "run folder"),
        *("disk", "sandbox", "port"),
    }
    assert "torch 2." in found["versions"]["found"]
    assert found["vllm"]["status"] == "note"
    assert found["tracking store"]["status"] == "ok"
    assert code == (1 if any(each["status"] == "amiss" for each in found.values()) else 0)
    after = {path.name for path in workplace.iterdir()} - {".mlflow.db.lock"}
    assert after == set(before)


def test_what_is_amiss_is_said_with_its_remedy(call, workplace, monkeypatch):
    monkeypatch.setattr(checkup, "_LITTLE_DISK", 10**18)
    monkeypatch.setattr(checkup, "visible_gpus", lambda: ["0", "1"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(checkup, "_PORT", taken.getsockname()[1])
        code, out, err = call("doctor", "--tracking-uri", "sqlite:////nowhere/at/all/m.db")
    assert code == 1
    assert "2 GPUs that torch cannot use" in out
    assert "install the torch build that fits the driver" in err
    assert "alpkit clean lists" in err
    assert "alpkit ui --port 5001" in err
    assert "/nowhere/at/all cannot be written" in out


def test_a_gap_is_explained_in_a_table_a_figure_and_json(call, workplace):
    (workplace / "grid.yaml").write_text(
        "name: g\narms: [grpo]\nbase: {rollout: {weights: int4}}\n"
    )
    code, out, _ = call("doctor", "--explain-gap", "grid.yaml:grpo", "--items", "16")
    assert code == 0
    assert "sampler's weights" in out
    assert "the causes' variances add up to 100% of the gap's" in out
    assert "noise floor" in out
    assert (workplace / "gap.png").read_bytes()[:4] == b"\x89PNG"
    (workplace / "exact.yaml").write_text("name: g\narms: [grpo]\n")
    _, out, _ = call("doctor", "--explain-gap", "exact.yaml", "--items", "16")
    assert "there is no gap" in out
    _, out, _ = call("doctor", "--explain-gap", "exact.yaml", "--items", "16", "--json")
    told = json.loads(out)
    assert told["status"] == "none"
    assert sum(cause["share"] for cause in told["causes"].values()) == pytest.approx(1.0)
    assert call("doctor", "--explain-gap", "nope")[0] == 2
