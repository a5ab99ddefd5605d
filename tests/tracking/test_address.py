"""Passwords of a store's address: usable, and written down nowhere."""

import pytest

from alpkit.errors import TrackingError
from alpkit.tracking import masked, prepare_store, usable_uri
from alpkit.tracking.refusals import store_errors


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:s3cret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql+psycopg2://me:s3@cret@host/db", "postgresql+psycopg2://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=s3cret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("http://:s3cret@host", "http://:***@host"),
        ("http://127.0.0.1:5000/api/x@y", "http://127.0.0.1:5000/api/x@y"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
        ("http://me@host", "http://me@host"),
    ],
)
def test_an_address_is_shown_without_its_password(uri, shown):
    assert masked(uri) == shown
    assert masked(f"a call of {uri} failed") == f"a call of {shown} failed"
    assert masked(shown) == shown


def test_a_decoded_password_is_hidden_too():
    text = masked("the password p@ss w was refused", "postgresql://me:p%40ss%20w@host/db")
    assert text == "the password *** was refused"


def test_a_refusal_shows_no_password_and_no_cause():
    uri = "http://me:s3cret@host"
    with pytest.raises(TrackingError) as caught, store_errors(uri):
        raise OSError(f"GET {uri}/api: s3cret is wrong\nand more")
    assert "s3cret" not in str(caught.value)
    assert caught.value.where == "http://me:***@host"
    assert caught.value.__cause__ is None


def test_a_masked_address_is_used_with_the_password_from_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@host")
    assert usable_uri(None, "http://me:***@host") == "http://me:s3cret@host"
    assert usable_uri("http://other", "http://me:***@host") == "http://other"
    assert usable_uri(None, "sqlite:///a.db") == "sqlite:///a.db"
    with pytest.raises(TrackingError, match="password"):
        usable_uri(None, "http://me:***@elsewhere")


def test_a_damaged_database_is_one_line(workplace, capfd, caplog):
    (workplace / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError, match="refused") as caught:
        prepare_store()
    assert len(str(caught.value)) < 700
    assert "\n" not in caught.value.why
    printed = capfd.readouterr()
    assert len(printed.out + printed.err + caplog.text) < 700
