"""The two cluster files pass the checks that `ray up` makes first, and say what they are meant to say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")
FILES = ("cluster.yaml", "cluster.onprem.yaml")


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def accepted(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with Ray's defaults filled in. Raises, or ends the process, where Ray refuses it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name: str) -> None:
    accepted(load(name))


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_key_would_be_refused(name: str) -> None:
    with pytest.raises((SystemExit, Exception), match="max_worker"):
        accepted({**load(name), "max_worker": 3})


def test_on_prem_needs_its_addresses() -> None:
    config = load("cluster.onprem.yaml")
    del config["provider"]["head_ip"]
    with pytest.raises((SystemExit, Exception)):
        accepted(config)


def test_all_machines_of_an_on_prem_cluster_are_there_from_the_start() -> None:
    prepared = accepted(load("cluster.onprem.yaml"))
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(prepared["provider"]["worker_ips"])


def test_workers_scale_from_zero_on_demand_with_one_slot_a_node() -> None:
    config = load("cluster.yaml")
    gpu = config["available_node_types"]["gpu"]
    assert gpu["min_workers"] == 0
    assert gpu["resources"]["bench_slot"] == 1
    assert "InstanceMarketOptions" not in gpu["node_config"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", FILES)
def test_every_node_has_the_token_and_wants_it(name: str) -> None:
    config = load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        (start,) = [command for command in config[f"{kind}_start_ray_commands"] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
        assert "RAY_worker_niceness=0" in start
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])


@pytest.mark.parametrize("name", FILES)
def test_dashboard_and_mlflow_listen_on_the_head_alone(name: str) -> None:
    started = " ".join(load(name)["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "mlflow server --host 127.0.0.1 --port 5000" in started
    told = " ".join(load(name)["head_setup_commands"])
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in told


@pytest.mark.parametrize("name", FILES)
def test_what_it_installs_is_what_the_project_pins(name: str) -> None:
    commands = " ".join(load(name)["setup_commands"])
    assert "PIP_CONSTRAINT=constraints.txt" in commands
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert "ray==2.60.0" in pins
    assert "torch==2.13.0" in pins
    assert any(pin.startswith("boto3==") for pin in pins), "the head talks to AWS with it"


def test_the_two_files_run_the_same_on_a_node() -> None:
    """What is not about AWS is said once: the other file has it word for word."""
    cloud, own = load("cluster.yaml"), load("cluster.onprem.yaml")
    assert own["file_mounts"] == cloud["file_mounts"]
    assert own["rsync_exclude"] == cloud["rsync_exclude"]
    assert own["head_setup_commands"] == cloud["head_setup_commands"]
    assert own["head_start_ray_commands"][-1] == cloud["head_start_ray_commands"][-1]
    assert {re.sub(r"'\.\[[\w,]+\]'$", "", one) for one in own["setup_commands"]} <= {
        re.sub(r"'\.\[[\w,]+\]'$", "", one) for one in cloud["setup_commands"]
    }
