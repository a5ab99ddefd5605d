"""Tables in any width: no line is longer, no word is broken, no number is lost."""

import json
import re

import pytest
from rich.console import Console

from alpkit.cli import output
from alpkit.cli.layout import Column, TextTable, fitted, plain

WIDTHS = [60, 80, 100, 150, 1000]


def lines(table, width):
    console = Console(width=width, force_terminal=True, color_system=None, highlight=False)
    with console.capture() as shown:
        for part in fitted(table, width).tables:
            console.print(part)
    return [line.rstrip() for line in shown.get().splitlines()]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_is_whole_in_one_of_the_blocks(width):
    heads = [Column("method"), *(Column(f"of it solved {i}", right=True) for i in range(12))]
    rows = [[f"arm-{r}", *(f"{r}.{i:02d}5 [0.1, 0.2]" for i in range(12))] for r in range(3)]
    shown = lines(TextTable(heads, rows, "a title"), width)
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    for row in rows:
        assert all(text.count(cell) == 1 for cell in row[1:])
    assert text.count("arm-0") == (1 if width == 1000 else text.count("method"))
    assert shown[0] == "a title"


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_wrap_at_words(width):
    sentence = "seq-bypass and seq-alp share clip band and denominator, so the gap is the noise"
    shown = lines(plain(("name", "question"), [["quickstart", sentence]], "question"), width)
    assert max(map(len, shown)) <= width
    words = " ".join(shown).split()
    assert [word for word in words if word in sentence.split()] == sentence.split()


def test_what_may_be_left_out_is_named_where_there_is_no_room():
    heads = [
        Column("method"),
        Column("formula", text=True, comfort=40),
        Column("ratio", extra=True),
    ]
    table = TextTable(heads, [["grpo", "clip(r) " * 10, "over old, token"]])
    assert fitted(table, 150).left_out == []
    assert fitted(table, 60).left_out == ["ratio"]
    assert len(fitted(table, 60).tables) == 1


def test_a_first_column_wider_than_the_terminal_wraps_rather_than_hiding_the_rest():
    arm = "seq-alp perturbation.layers=middle:4 perturbation.site=attention_output sigma=0.02"
    shown = lines(TextTable([Column("arm"), Column("score", right=True)], [[arm, "0.583"]]), 60)
    assert max(map(len, shown)) <= 60
    assert "0.583" in "\n".join(shown)


def test_no_table_of_the_commands_is_wider_than_the_terminal(call, monkeypatch, workplace):
    terminal = Console(width=80, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(output, "out", lambda: terminal)
    for command in (["methods"], ["examples"]):
        _, out, _ = call(*command)
        assert 0 < max(len(line.rstrip()) for line in out.splitlines()) <= 80
        # A word that was cut would be one that the JSON does not have.
        _, told, _ = call(*command, "--json")
        known = set(re.findall(r"[A-Za-z_]+", json.dumps(json.loads(told)))) | {
            "method",
            "formula",
            "name",
        }
        assert set(re.findall(r"[A-Za-z_]{4,}", out)) <= known | {"question"}


def test_a_sentence_wraps_at_words_and_an_address_stays_whole(monkeypatch, capsys):
    console = Console(width=40, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(output, "out", lambda: console)
    output.say("a sentence of words that is longer than the terminal is wide")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
    address = "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=alpkit-arms"
    output.say(f"open {address}")
    assert address in capsys.readouterr().out
