"""The sweep's command with legs that are faked: `python -m tests.chaos.driver space=... sweep=...`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from raybench import sweep
from raybench.cli import run_command
from raybench.declare.plan import Trial
from tests.chaos import fake


def fit(trial: Trial, name: str, config: dict[str, Any], node_ids: list[str]) -> str:
    """As `raybench.driver.trial.fit_torch`, on a trainer without torch."""
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raybench.driver.trial import WithoutCleaner, trainer_arguments

    class Trainer(WithoutCleaner, DataParallelTrainer):
        pass

    return str(Trainer(work, **trainer_arguments(trial, name, config, node_ids)).fit().return_value or "")


def work(config: dict[str, Any]) -> str:
    """What each process of a group runs."""
    import os

    import ray.train

    from raybench.driver.trial import run_group
    from raybench.machine.variables import WORKING_TREE
    from raybench.machine.versions import own_versions

    context = ray.train.get_context()
    folder = Path(os.environ[WORKING_TREE]) / fake.MEETINGS / config["group"]
    ranks = fake.Ranks(context.get_world_rank(), context.get_world_size(), folder)
    return run_group(config, lambda _trial: ranks, {"gpus": [], "gpu": None, "versions": own_versions()}, fake.run_legs)


def main(argv: list[str]) -> int:
    """Run a sweep of faked legs."""
    from raybench.cluster import connection as cluster
    from raybench.driver import schedule  # in this order: whether Ray wants a token is decided before it is imported

    del cluster
    schedule.run_trials = functools.partial(schedule.run_trials, fit=fit)
    return sweep.main(argv)


if __name__ == "__main__":
    from tests.chaos.driver import main as _main

    run_command(_main)
