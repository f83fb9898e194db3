"""A store that says no, told in one line and exit code 2 before anything starts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.errors import UserError
from raybench.stores.storage import to_path
from raybench.sweep import main as sweep
from tests.conftest import Commands
from tests.storage.store import KEY, SECRET, Store

READER = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}


@pytest.fixture
def reader(store: Store) -> Iterator[tuple[str, str]]:
    """The key and the secret of a user who may read and not write; meanwhile the store looks at who asks."""
    iam = store.client("iam")
    name = f"reader-{uuid.uuid4().hex}"
    iam.create_user(UserName=name)
    policy = json.dumps({"Version": "2012-10-17", "Statement": [READER]})
    iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=policy)
    found = iam.create_access_key(UserName=name)["AccessKey"]
    store.bucket("guarded")
    store.check_permissions(True)
    yield found["AccessKeyId"], found["SecretAccessKey"]
    store.check_permissions(False)


def refusal(uri: str) -> str:
    with pytest.raises(UserError) as caught:
        sweep(["space=quickstart", f"results={uri}"])
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith("results: s3://")
    return told


def test_no_permission_to_write(
    store: Store, reader: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader[1])
    told = refusal(store.uri("guarded/results"))
    assert "the store does not permit it; the credentials need list, read, write and delete rights" in told
    assert reader[1] not in told
    assert not to_path(store.uri("guarded/results")).exists()
    assert list(tmp_path.iterdir()) == []


def test_credentials_that_nobody_knows(store: Store, reader: tuple[str, str]) -> None:
    told = refusal(store.uri("guarded/results"))
    assert "AWS_ACCESS_KEY_ID" in told
    assert SECRET not in told


def test_credentials_of_the_uri_count_and_are_not_told(store: Store, reader: tuple[str, str]) -> None:
    told = refusal(store.uri("guarded/results").replace("s3://", f"s3://{KEY}:some%2Fthing@"))
    assert "thing" not in told
    assert KEY not in told.partition("(")[0]


def test_no_such_bucket(store: Store) -> None:
    assert "there is no such bucket; make it first, or correct its name" in refusal(store.uri("nowhere/results"))


def test_the_command_ends_with_2_and_one_line(store: Store, commands: Commands) -> None:
    commands.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    done = commands.run("sweep", "space=quickstart", f"results={store.uri('nowhere')}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("raybench: results: s3://nowhere?")
    assert done.stderr.count("\n") == 1
    assert list(commands.folder.iterdir()) == []
