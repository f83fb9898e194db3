"""Two sweeps against each other: known changes, outcomes that come and go, exit codes for CI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from raybench.analysis import analyse
from raybench.analysis.across.changes import changes
from raybench.compare import main
from raybench.errors import UserError
from raybench.show.differences import changes_in_words
from raybench.statistics.claims import Rule, judge
from tests.analysis.ledgers import leg, paired, write

A = [1.10, 1.12, 1.08, 1.11, 1.09]
B = [0.98, 1.00, 0.99, 0.97]


def ledgers(tmp_path: Path, a: list[dict], b: list[dict]) -> list[str]:
    return [str(write(tmp_path / name / "legs.parquet", rows).parent) for name, rows in (("a", a), ("b", b))]


def found(paths: list[str], margin: float = 0.03) -> list:
    return list(changes(*(analyse([Path(path)]) for path in paths), margin, 0.05))


def test_the_change_by_hand(tmp_path: Path) -> None:
    one = found(ledgers(tmp_path, paired(A), paired(B)))[0]
    mean = np.mean(np.log(B)) - np.mean(np.log(A))
    error = np.sqrt(np.var(np.log(A), ddof=1) / 5 + np.var(np.log(B), ddof=1) / 4)
    half = stats.t.ppf(0.975, 3) * error
    assert one.change == pytest.approx(np.exp(mean))
    assert one.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / error, 3))
    assert (one.ci_low, one.ci_high) == pytest.approx((np.exp(mean - half), np.exp(mean + half)))
    assert one.verdict == "hurts"
    assert (one.before_trials, one.after_trials) == (5, 4)


def test_what_moves_baseline_and_arm_alike_cancels(tmp_path: Path) -> None:
    slower = paired(A, base=3.0, environment={"gpu": "A100"})
    one = found(ledgers(tmp_path, paired(A), slower))[0]
    assert one.change == pytest.approx(1.0)
    assert one.verdict == "no effect"


def test_swapping_the_sweeps_inverts_the_change(tmp_path: Path) -> None:
    paths = ledgers(tmp_path, paired(A), paired(B))
    there, back = found(paths)[0], found(paths[::-1])[0]
    assert there.change == pytest.approx(1 / back.change)
    assert (there.verdict, back.verdict) == ("hurts", "helps")


def test_what_appears_disappears_and_stops_running(tmp_path: Path) -> None:
    def failing(setting: str) -> list[dict]:
        trials = [
            (leg("ddp", t, setting_id=setting), leg("zero1", t, setting_id=setting, failure_kind="crashed"))
            for t in (0, 1)
        ]
        return [row for trial in trials for row in trial]

    a = [
        *paired(A),
        *paired(A, setting_id="gone"),
        *paired(A, setting_id="broken"),
        *failing("mended"),
        *failing("never"),
    ]
    b = [
        *paired(A),
        *paired(A, setting_id="new"),
        *failing("broken"),
        *paired(A, setting_id="mended"),
        *failing("never"),
    ]
    verdicts = {one.setting_id: one.verdict for one in found(ledgers(tmp_path, a, b))}
    assert verdicts == {
        "s0": "no effect", "gone": "disappeared", "new": "appeared", "broken": "lost", "mended": "gained",
        "never": "unchanged",
    }  # fmt: skip


def test_one_trial_a_side_is_undecided(tmp_path: Path) -> None:
    one = found(ledgers(tmp_path, paired([1.5]), paired(A)))[0]
    assert (one.verdict, one.ci_low, one.p_value) == ("undecided", None, None)
    assert one.change is not None


def test_a_change_is_not_invented() -> None:
    """2,000 pairs of sweeps of 5 settings without a change: the family's error stays at alpha, unlike Welch's."""
    random, sweeps = np.random.default_rng(0), 2000
    a, b = random.normal(0, 0.03, (sweeps, 5, 4)), random.normal(0, 0.01, (sweeps, 5, 8))
    parts = np.stack([a.var(axis=2, ddof=1) / 4, b.var(axis=2, ddof=1) / 8])
    welch = parts.sum(axis=0) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 7)
    error, mean = np.sqrt(parts.sum(axis=0)), b.mean(axis=2) - a.mean(axis=2)
    rates = []
    for degrees in (np.full(welch.shape, 3.0), welch):
        count = degrees + 1
        verdicts = [
            judge(count[i], mean[i], error[i] * np.sqrt(count[i]), Rule(1e-6, 0.05, variance="own")).verdict
            for i in range(sweeps)
        ]
        rates.append(np.isin(verdicts, ["helps", "hurts"]).any(axis=1).mean())
    assert rates[0] < 0.05 < 0.07 < rates[1]


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ledgers(tmp_path, paired(A), paired(B))
    assert main([*paths, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["changes"][0]["verdict"] == "hurts"
    assert report["answer"] == "Of 1 comparison, 1 got worse."
    assert main([*paths, "--fail-on", "hurts"]) == 1
    assert "--fail-on: 1 hurts" in capsys.readouterr().err
    assert main([*paths, "--fail-on=disappeared,appeared"]) == 0
    assert "1 got worse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-on", "hurt"], "did you mean hurts"),
        (["--fail-on"], "A B is missing"),
        (["colour=1"], "unknown key"),
    ],
)
def test_bad_commands(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*ledgers(tmp_path, paired(A), paired(B)), *arguments])


def test_hardware_that_does_not_match(tmp_path: Path) -> None:
    several = [*paired(A, environment={"gpu": "A100"}), *paired(A, environment={"gpu": "H100"}, sweep="other")]
    paths = ledgers(tmp_path, several, paired(B, environment={"gpu": "L4"}))
    with pytest.raises(UserError, match=r"A holds several hardware \(A100; H100\)"):
        found(paths)
    same = [one.verdict for one in found([paths[0], paths[0]])]
    assert same == ["no effect", "no effect"]


def test_raw_times_stand_beside_what_cancels(tmp_path: Path) -> None:
    """B's machine is three times as slow: the speedup over the baseline is as it was, the arm's own time is not."""
    (one,) = found(ledgers(tmp_path, paired(A), paired(A, base=3.0)))
    assert one.change == pytest.approx(1.0)
    assert one.raw_change == pytest.approx(1 / 3)
    logs = np.log(A)
    half = stats.t.ppf(0.975, 4) * np.sqrt(2 * np.var(logs, ddof=1) / 5)
    assert (one.raw_low, one.raw_high) == pytest.approx((np.exp(-half) / 3, np.exp(half) / 3))
    assert not one.same_legs


@pytest.mark.parametrize("ratios", [[0.7, 1.0, 1.4], [1.1]])
def test_a_ledger_against_itself_did_not_change(tmp_path: Path, ratios: list[float]) -> None:
    rows = paired(ratios)
    (one,) = found(ledgers(tmp_path, rows, rows))
    assert one.verdict == "no effect"
    assert (one.change, one.raw_change, one.ci_low, one.raw_high) == (1.0, 1.0, 1.0, 1.0)
    assert changes_in_words([one], 0.03) == "A and B hold the same legs: nothing changed in 1 comparison."
