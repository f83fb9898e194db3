"""A cluster and a sweep that do not agree on a token: one line and exit code 2, where Ray speaks of missing headers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.nodes import Nodes
from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "0123456789abcdef" * 4
JOINED = "no node has a CPU for a worker"  # a head alone is refused for what it has, by whom it lets in


def head(tmp_path_factory: pytest.TempPathFactory, **variables: str) -> Iterator[str]:
    """The address of a head with such variables, and of no other node."""
    folder = tmp_path_factory.mktemp("head")
    with Nodes(0, folder, uuid.uuid4().hex, {"HOME": str(folder), **variables}) as nodes:
        yield nodes.ask("address")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head that wants a token."""
    yield from head(tmp_path_factory, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head without tokens."""
    yield from head(tmp_path_factory, RAY_AUTH_MODE="disabled")


def refusal(folder: Path, address: str, **variables: str) -> str:
    """What a sweep says that does not begin, of somebody whose home is `folder`."""
    commands = Commands(folder, address)
    commands.environment |= {"HOME": str(folder), **variables}
    done = commands.run("sweep", "space=quickstart", "--quiet", timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert not (folder / "mlruns").exists()
    assert TOKEN not in line
    return line


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "wants a token, and there is none here: copy ~/.ray/auth_token from its head"),
        ({"RAY_AUTH_TOKEN": "another"}, "wants a token, but RAY_AUTH_TOKEN holds a different one: copy"),
        (
            {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"},
            "wants a token, but RAY_AUTH_MODE=disabled here sends none: set RAY_AUTH_MODE=token",
        ),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "wants a token, and it cannot be read: RAY_AUTH_TOKEN_PATH is set but"),
    ],
)
def test_who_lacks_the_token_is_told_so(closed: str, tmp_path: Path, variables: dict[str, str], words: str) -> None:
    assert refusal(tmp_path, closed, **variables).startswith(f"raybench: the Ray cluster at {closed} {words}")


def test_a_token_in_the_home_folder_is_shown(closed: str, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    assert JOINED in refusal(tmp_path, closed)


def test_who_has_a_token_joins_a_cluster_without_unless_asked_not_to(open_to_all: str, tmp_path: Path) -> None:
    """raybench makes a token for a Ray of its own; other people's clusters are joined all the same, as Ray does."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    assert JOINED in refusal(tmp_path, open_to_all)
    told = refusal(tmp_path, open_to_all, RAY_AUTH_MODE="token")
    assert f"the Ray cluster at {open_to_all} runs without a token, but RAY_AUTH_MODE=token requires one" in told
