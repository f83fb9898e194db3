"""cluster.yaml passes the checks that `ray up` makes before it talks to a cloud."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore")


def load() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load())
    validate_config(config)
    assert config["available_node_types"]["gpu"]["resources"]["bench_slot"] == 1


def test_a_wrong_key_would_be_refused() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load()
    config["max_worker"] = 3
    with pytest.raises((SystemExit, Exception), match="max_worker"):
        validate_config(prepare_config(config))


def test_workers_scale_from_zero_on_demand_with_one_slot_a_node() -> None:
    config = load()
    gpu = config["available_node_types"]["gpu"]
    assert gpu["min_workers"] == 0
    assert gpu["resources"]["bench_slot"] == 1
    assert "InstanceMarketOptions" not in gpu["node_config"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_what_it_installs_is_what_the_project_pins() -> None:
    commands = " ".join(load()["setup_commands"])
    assert "constraints.txt" in commands
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert "ray==2.60.0" in pins
    assert "torch==2.13.0" in pins
