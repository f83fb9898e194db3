"""What a person writes for a place, and what it is called: paths, URIs, and no secrets in what is shown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from raybench.errors import UserError
from raybench.stores.remotepath import RemotePath
from raybench.stores.storage import address, hidden_folder, store_variables, to_path, write_problem

NOWHERE = "endpoint_override=127.0.0.1:1&scheme=http"


@pytest.mark.parametrize("text", ["mlruns/ledger", "/data/results", "odd:name", "file:///data/results"])
def test_a_path_of_this_machine_stays_one(text: str) -> None:
    assert to_path(text) == Path(text.removeprefix("file://"))


def test_a_uri_is_used_like_a_path() -> None:
    folder = to_path(f"s3://bucket/results/?{NOWHERE}") / "cnns" / "friday"
    assert isinstance(folder, RemotePath)
    assert str(folder) == f"s3://bucket/results/cnns/friday?{NOWHERE}"
    assert (folder.name, folder.parent.name, folder.absolute()) == ("friday", "cnns", folder)
    file = folder / "_space.yaml"
    assert (file.stem, file.suffix, file.relative_to(folder).parts) == ("_space", ".yaml", ("_space.yaml",))
    assert str(file.with_name("x")) == f"s3://bucket/results/cnns/friday/x?{NOWHERE}"
    assert to_path(address(folder)) == folder
    assert pickle.loads(pickle.dumps(folder)) == folder


def test_the_bucket_itself() -> None:
    bucket = to_path(f"s3://bucket?{NOWHERE}")
    assert (bucket.name, str(bucket)) == ("bucket", f"s3://bucket?{NOWHERE}")
    assert str(bucket / "x") == f"s3://bucket/x?{NOWHERE}"
    assert (bucket / "x").parent == bucket == bucket.parent


def test_credentials_in_a_uri_are_handed_on_and_not_shown() -> None:
    folder = to_path(f"s3://AKID:hu%2Fsh@bucket/a b?{NOWHERE}")
    assert str(folder / "c") == f"s3://bucket/a%20b/c?{NOWHERE}"
    assert "hu" not in repr(folder)
    assert str(to_path("abfs://container@account.dfs.core.windows.net/a")).startswith("abfs://container@account.")
    assert address(folder / "c") == f"s3://AKID:hu%2Fsh@bucket/a%20b/c?{NOWHERE}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://me:secret@host/x", r"^ftp://host/x: ftp:// is no kind of store; known: file://, s3://, gs://"),
        ("file://host/x", "three slashes"),
        ("s3://AKID:sec/ret@bucket/x", "a '/' in a secret key is written %2F"),
        (f"s3://bucket/x?{NOWHERE}&colour=red", "colour"),
        ("s3://", "no bucket is named"),
    ],
)
def test_what_is_no_place_is_told_in_a_line_without_secrets(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        to_path(text)
    assert "sec" not in str(caught.value).replace("secret key", "")
    assert "\n" not in str(caught.value)


def test_a_store_that_is_not_there_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hush4711", "AWS_REGION": "eu"}.items():
        monkeypatch.setenv(name, value)
    place = to_path(f"s3://bucket/results?{NOWHERE}")
    problem = write_problem(place)
    assert problem.startswith(f"s3://bucket/results?{NOWHERE}: AWS Error NETWORK_CONNECTION")
    assert "onnect" in problem


def test_what_needs_a_disk_lies_on_this_machine(tmp_path: Path) -> None:
    assert hidden_folder(tmp_path / "cnns" / "friday") == tmp_path / "cnns" / ".ray-friday"
    one, other = (hidden_folder(to_path(f"s3://{name}/cnns/friday?{NOWHERE}")) for name in "ab")
    assert one.is_absolute()
    assert one != other
    assert one == hidden_folder(to_path(f"s3://key:secret@a/cnns/friday?{NOWHERE}"))


def test_only_a_store_is_told_who_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_PROFILE", "bench")
    assert store_variables(tmp_path) == {}
    assert store_variables(to_path(f"s3://bucket?{NOWHERE}"))["AWS_PROFILE"] == "bench"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert write_problem(tmp_path / "new" / "results") == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is a file" in write_problem(tmp_path / "file" / "results")
    assert "cannot be written" in write_problem(Path("/proc/results"))
