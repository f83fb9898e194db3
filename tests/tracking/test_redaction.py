"""No password leaves in an address or a message."""

from __future__ import annotations

import pytest

from raybench.redaction import first_line, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("postgresql+psycopg://u:p%40ss@db/mlflow", "postgresql+psycopg://db/mlflow"),
        ("API request to https://u:p@w@host/api failed, see http://docs", "API request to https://host/api failed, see http://docs"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
    ],
)  # fmt: skip
def test_addresses_lose_their_user(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_password_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p/w d")
    error = ValueError("refused: p/w d and p%2Fw%20d\nmore")
    assert first_line(error) == "refused: *** and ***"
