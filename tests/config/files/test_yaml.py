import math
from pathlib import Path

import pytest
import yaml

from alpkit.config import RunConfig, dump_yaml, load_yaml
from alpkit.config.files.yaml import Document, parse_yaml
from alpkit.errors import ConfigError


def fails(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.0E+3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        (".INF", math.inf),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-3", -3),
        ("+7", 7),
        ("1_000", "1_000"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("2026-07-01", "2026-07-01"),
        ("1:30", "1:30"),
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        ("!!str 10", "10"),
        ("!!float 10", 10.0),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}", "f.yaml").data["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(parse_yaml("key: .nan", "f.yaml").data["key"])


def test_positions_of_keys_values_and_items() -> None:
    document = parse_yaml("# header\na: 1\nb:\n  c: [x, {d: 2}]\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    assert document.position(("a",)) == "f.yaml:2:4"
    assert document.position(("a",), key=True) == "f.yaml:2:1"
    assert document.position(("b",)) == "f.yaml:3:1"
    assert document.position(("b", "c")) == "f.yaml:4:3"
    assert document.position(("b", "c", 0)) == "f.yaml:4:7"
    assert document.position(("b", "c", 1)) == "f.yaml:4:10"
    assert document.position(("b", "c", 1, "d")) == "f.yaml:4:14"


def test_the_position_of_what_is_absent_is_its_nearest_ancestor_s() -> None:
    document = parse_yaml("a: {b: 1}", "f.yaml")
    assert document.position(("a", "x", "y")) == "f.yaml:1:1"
    assert Document.constant({"a": 1}, "--set a=1").position(("a",)) == "--set a=1"


def test_an_alias_is_read_at_both_places() -> None:
    document = parse_yaml("a: &x {c: 1}\nb: *x\n", "f.yaml")
    assert document.data == {"a": {"c": 1}, "b": {"c": 1}}
    assert document.position(("b", "c")) == "f.yaml:1:11"


def test_duplicate_keys_name_both_places_all_at_once() -> None:
    assert fails("a: 1\nb: {c: 1, c: 2}\na: 3\n") == (
        "f.yaml:2:11  duplicate key 'c' (first at f.yaml:2:5)\n"
        "  remove one of them\n"
        "f.yaml:3:1  duplicate key 'a' (first at f.yaml:1:1)\n"
        "  remove one of them"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "f.yaml:1:5  not valid YAML: mapping values are not allowed here"),
        (
            "a:\n\tb: 1",
            "f.yaml:2:1  not valid YAML: found character '\\t' that cannot start any token "
            "(while scanning for the next token)",
        ),
        (
            "a: [1, 2",
            "f.yaml:1:9  not valid YAML: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)",
        ),
        ("a: *x", "f.yaml:1:4  not valid YAML: found undefined alias 'x'"),
        (
            "a: 1\n---\nb: 2",
            "f.yaml:2:1  not valid YAML: but found another document "
            "(expected a single document in the stream)",
        ),
        (
            "a: 1\x00",
            "f.yaml  not valid YAML: unacceptable character #x0000: special characters "
            "are not allowed",
        ),
        ("1: x", "f.yaml:1:1  keys must be text, got 1\n  quote it"),
        ("true: x", "f.yaml:1:1  keys must be text, got true\n  quote it"),
        ("[a]: x", "f.yaml:1:1  keys must be text, got a mapping or list\n  quote it"),
        ("a: {<<: {b: 1}}", "f.yaml:1:5  merge keys (<<) are not read\n  repeat the entries"),
        ("a: !new 3", "f.yaml:1:4  the tag !new is not supported"),
        ("a: !!int x", "f.yaml:1:4  'x' does not fit the tag tag:yaml.org,2002:int"),
        ("a: &x [*x]", "f.yaml:1:4  an alias refers to the mapping or list that contains it"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(text: str, message: str) -> None:
    assert fails(text) == message


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    assert fails("[" * 2000).startswith("f.yaml  not valid YAML: nested too deep")


def test_files_that_are_no_yaml_mapping(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_yaml(path)
        return str(caught.value).replace(str(tmp_path), "TMP")

    (tmp_path / "empty.yaml").write_text("# only a comment\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    assert (
        message(tmp_path / "none.yaml")
        == "TMP/none.yaml  there is no such file\n  fix: check the path"
    )
    assert message(tmp_path) == "TMP  is a folder\n  fix: name a YAML file inside it"
    assert message(tmp_path / "empty.yaml") == (
        "TMP/empty.yaml  the file is empty\n  fix: see experiments/quickstart.yaml"
    )
    assert message(tmp_path / "list.yaml") == (
        "TMP/list.yaml:1:1  the top level must be a mapping, got a list"
    )
    assert message(tmp_path / "latin.yaml") == (
        "TMP/latin.yaml  is not UTF-8 text\n  why: byte 0xe9 at offset 6\n  fix: save it as UTF-8"
    )


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert load_yaml(tmp_path / "bom.yaml").data == {"name": "x"}


@pytest.mark.parametrize(
    "text", ["1e-5", "010", "on", "~", "0o17", "2026-07-01", "1_000", "a: b", "é"]
)
def test_dumped_text_stays_text_in_both_yaml_versions(text: str) -> None:
    config = RunConfig.model_validate({"model": text})
    dumped = dump_yaml(config)
    assert parse_yaml(dumped, "f.yaml").data == config.model_dump(mode="json")
    assert yaml.safe_load(dumped) == config.model_dump(mode="json")
