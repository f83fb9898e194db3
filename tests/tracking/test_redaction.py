"""No password, token or key leaves in an address or a message."""

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
        ("postgresql://db/mlflow?user=me&password=geheim&sslmode=off", "postgresql://db/mlflow?user=me&password=***&sslmode=off"),
        ("s3://bucket/x?region=eu", "s3://bucket/x?region=eu"),
    ],
)  # fmt: skip
def test_addresses_lose_their_user(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_password_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p/w d")
    error = ValueError("refused: p/w d and p%2Fw%20d\nmore")
    assert first_line(error) == "refused: *** and ***"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "wandb_api_key", "OPENAI_APIKEY"],
)
def test_the_value_of_a_variable_that_is_named_like_a_secret_is_hidden(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hush/1234+x")
    assert without_secrets("KeyError: 'hush/1234+x', or hush%2F1234%2Bx") == "KeyError: '***', or ***"


def test_the_password_of_an_address_in_any_variable_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://bot:geheim99@packages.example/simple")
    assert without_secrets("401 for bot with geheim99") == "401 for bot with ***"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/me"),
        ("RAY_AUTH_TOKEN_PATH", "/home/me"),
        ("TOKENIZERS_PARALLELISM", "/home/me"),
        ("A_TOKEN", "me"),
    ],
)
def test_what_is_no_secret_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert without_secrets("no such file: /home/me/x") == "no such file: /home/me/x"
