"""`raybench.versions`: what may be asked for, and the versions between two."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from raybench.declare.repeats import Repeats
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.sweep import Request
from raybench.versions import against, commits_between, main
from tests.analysis.ledgers import leg, write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of four commits, tagged v0 to v3."""
    for words in (["init", "-q"], ["config", "user.email", "a@example.org"], ["config", "user.name", "A"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    for number in range(4):
        for words in (["commit", "-q", "--allow-empty", "-m", f"c{number}"], ["tag", f"v{number}"]):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_commits_from_the_good_one_to_the_bad_one(checkout: Path) -> None:
    found = commits_between(str(checkout), "v0", "v3")
    assert len(found) == len(set(found)) == 4
    assert all(url.startswith(f"git+file://{checkout}@") for url in found)
    assert commits_between(str(checkout), "v1", "v2") == found[1:3]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("v3", "v0", "good=v3 is no ancestor of bad=v0"),
        ("v9", "v3", "good=v9: .* no such commit"),
        ("v0", "not", "bad=not: .* no such"),
    ],
)
def test_commits_that_are_not_there_are_one_line(checkout: Path, good: str, bad: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        commits_between(str(checkout), good, bad)
    assert "\n" not in str(error.value)


def test_two_versions_are_judged_until_settled_at_their_share_of_alpha() -> None:
    _, space = load_space("versions", size="small")
    pair, arms = against(space, "", "deepspeed", "0.18.4", "0.18.6", 4)
    assert arms == ["deepspeed 0.18.4", "deepspeed 0.18.6"]
    assert (pair.baseline, list(pair.arms)) == (arms[0], arms)
    assert [arm.packages for arm in pair.arms.values()] == [{"deepspeed": "0.18.4"}, {"deepspeed": "0.18.6"}]
    assert pair.question.alpha == space.question.alpha / 4
    assert pair.repeats == Repeats(min=3, max=8)


@pytest.mark.parametrize("first_bad", ["0.18.5", "0.18.7"])
def test_the_first_slower_release_is_found_in_what_the_sweeps_measured(
    first_bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = [f"0.18.{number}" for number in range(4, 9)]

    def measure(request: Request, _console: object) -> None:
        (good, other), rows = request.space.arms, []
        for trial in range(4):
            for arm in (good, other):
                slow = Version(arm.split()[1]) >= Version(first_bad)
                seconds = (1.2 if slow else 1.0) * (1 + 0.001 * (trial % 2 if arm == other else 0))
                rows.append(leg(arm, trial, seconds=seconds) | {"is_baseline": arm == good})
        write(Path(str(request.folder)) / "legs.parquet", rows)

    monkeypatch.setattr("raybench.versions.releases_between", lambda *_: releases)
    monkeypatch.setattr("raybench.versions.run_sweep", measure)
    assert main(["--bisect", "good=0.18.4", "bad=0.18.8", "size=small", f"results={tmp_path}"]) == 0
    last_good = releases[releases.index(first_bad) - 1]
    assert f"the first bad version is {first_bad}; the last good one is {last_good}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--bisect", "good=0.18.4"], "bad= is missing"),
        (["--bisect", "--markdown", "good=0.18.4", "bad=0.18.6"], "--bisect has no table"),
        (["deepspeed=0.18.4", "good=0.18.4"], "good= belongs to --bisect"),
        (["--bisect", "good=a", "bad=b", "checkout=nowhere"], "there is no such folder"),
        (["deepspeed=0.18.4,newest"], "is none of: a version"),
        (["space=versions"], "name one library"),
        (["deepspeed=0.18.4", "arm=zero9"], "arm=zero9"),
        (["deepspeed=0.18.4", "--fail-on", "worse"], "--fail-on worse"),
    ],
)
def test_what_cannot_be_asked_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(argv)
