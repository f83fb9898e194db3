"""`ray up cluster.yaml` as far as a stand-in for AWS goes: Ray's own code makes role, key, firewall and nodes in moto.

What would be run on the head over ssh is kept instead of run.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from raybench.cluster.__main__ import main as cluster
from raybench.cluster.aws import IMAGE_PARAMETER, NO_IMAGE, Machine, ask_aws, write_into
from raybench.errors import UserError
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("aws"), pytest.mark.filterwarnings("ignore")]
IMAGE = "ami-0123456789abcdef0"


class OverSsh:
    """In place of `subprocess`, what Ray would run over ssh and rsync; every command succeeds."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def check_call(self, command: list[str], *_: Any, **__: Any) -> None:
        self.commands.append(" ".join(command))

    def check_output(self, command: list[str], *_: Any, **__: Any) -> bytes:
        self.commands.append(" ".join(command))
        return b""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a stand-in for AWS, into which nothing has been put; a home folder with a token."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("TMPDIR", str(home))
        patch.delenv("AWS_PROFILE", raising=False)
        import boto3
        from moto import mock_aws

        with mock_aws():
            yield boto3.client("ec2", region_name="us-west-2")


@pytest.fixture(scope="module")
def up(ec2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What `ray up cluster.yaml` makes of the file, with an image put in, and what it runs on the head."""
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.aws import config as aws_config

    text = (ROOT / "cluster.yaml").read_text()
    assert text.count(NO_IMAGE) == 1, "one place to put it in"
    config = yaml.safe_load(text.replace(NO_IMAGE, IMAGE))
    tree = tmp_path_factory.mktemp("tree")  # Ray reads every file of it
    (tree / "pyproject.toml").write_text("")
    config["file_mounts"]["~/raybench"] = str(tree)
    over_ssh = OverSsh()
    with pytest.MonkeyPatch.context() as patch:
        # Ray waits for half a minute until AWS has spread the word of a new role.
        patch.setattr(aws_config, "time", SimpleNamespace(sleep=lambda _: None))
        bootstrapped = commands._bootstrap_config(config, no_config_cache=True)
        commands.get_or_create_head_node(
            bootstrapped, "cluster.yaml", no_restart=False, restart_only=False, yes=True, override_cluster_name=None,
            _runner=over_ssh,
        )  # fmt: skip
    return bootstrapped, over_ssh.commands


def nodes(ec2: Any) -> list[dict[str, Any]]:
    reservations = ec2.describe_instances()["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def kind(instance: dict[str, Any]) -> str:
    return next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "ray-user-node-type")


def test_the_head_and_nothing_else_is_started(ec2: Any, up: object) -> None:
    (head,) = nodes(ec2)
    assert (kind(head), head["InstanceType"], head["ImageId"]) == ("head", "m5.xlarge", IMAGE)
    assert "InstanceLifecycle" not in head, "on demand; a spot instance says so there"


def test_the_head_may_start_nodes_and_write_to_s3(ec2: Any, up: object) -> None:
    import boto3

    (head,) = [node for node in nodes(ec2) if kind(node) == "head"]
    profile = head["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    iam = boto3.client("iam")
    (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    policies = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert {policy["PolicyName"] for policy in policies} == {"AmazonEC2FullAccess", "AmazonS3FullAccess"}
    for policy in policies:
        newest = iam.get_policy(PolicyArn=policy["PolicyArn"])["Policy"]["DefaultVersionId"]
        rights = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId=newest)["PolicyVersion"]["Document"]
        assert "ssm:" not in json.dumps(rights), "it could look the image up; cluster.yaml says that it cannot"


def test_only_ssh_comes_in_from_outside(ec2: Any, up: tuple[dict[str, Any], list[str]]) -> None:
    (group,) = up[0]["available_node_types"]["gpu"]["node_config"]["SecurityGroupIds"]
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    outside = [rule for rule in rules if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in outside] == [(22, 22, "tcp")]
    within = [rule for rule in rules if not rule.get("IpRanges")]
    assert [pair["GroupId"] for rule in within for pair in rule["UserIdGroupPairs"]] == [group]


def test_the_key_that_opens_the_nodes_is_for_this_user_alone(up: tuple[dict[str, Any], list[str]]) -> None:
    key = Path(up[0]["auth"]["ssh_private_key"])
    assert key.parent == Path(os.environ["HOME"]) / ".ssh"
    assert key.stat().st_mode & 0o077 == 0


def test_what_ray_knows_of_a_gpu_node(up: tuple[dict[str, Any], list[str]]) -> None:
    resources = up[0]["available_node_types"]["gpu"]["resources"]
    assert resources["CPU"] == 48
    assert resources["GPU"] == 4
    assert resources["bench_slot"] == 1
    assert resources["accelerator_type:A10G"] == 1
    assert up[0]["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_the_head_is_set_up_with_token_and_mlflow(up: tuple[dict[str, Any], list[str]]) -> None:
    commands = up[1]
    ours = [command for command in commands if "ssh" in command]
    started = next(command for command in ours if "ray start --head" in command)
    assert "RAY_AUTH_MODE=token" in started
    assert "--dashboard-host=127.0.0.1" in started
    order = ["auth_token", "pip install", "MLFLOW_TRACKING_URI", "ray start --head", "mlflow server --host 127.0.0.1"]
    places = [next(i for i, command in enumerate(commands) if word in command) for word in order]
    assert places == sorted(places)


def test_a_sweep_gets_gpu_nodes_on_demand_behind_the_same_firewall(
    ec2: Any, up: tuple[dict[str, Any], list[str]]
) -> None:
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    config = up[0]
    gpu = config["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 2)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    provider.create_node(gpu["node_config"], {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}, 1)
    (node,) = [node for node in nodes(ec2) if kind(node) == "gpu"]
    assert (node["InstanceType"], node["ImageId"]) == ("g5.12xlarge", IMAGE)
    assert "InstanceLifecycle" not in node
    assert "IamInstanceProfile" not in node, "the head is the only writer; the others need no rights"
    (head,) = [node for node in nodes(ec2) if kind(node) == "head"]
    assert node["SecurityGroups"] == head["SecurityGroups"]
    assert node["KeyName"] == head["KeyName"]


def test_ray_down_leaves_nothing_that_costs(ec2: Any, up: tuple[dict[str, Any], list[str]]) -> None:
    from ray.autoscaler._private.providers import _get_node_provider

    config = up[0]
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    provider.terminate_nodes(provider.nodes_for_teardown({}))
    assert {node["State"]["Name"] for node in nodes(ec2)} == {"terminated"}
    assert ec2.describe_volumes()["Volumes"] == []


REGION, GPU = "us-west-2", "g5.12xlarge"


@pytest.fixture
def asked(ec2: Any) -> Machine:
    """What the stand-in says; it has no quotas of EC2 and no prices, and the image is put in as AWS would."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ssm.models import Parameter, ssm_backends

    parameter = Parameter(
        account_id=DEFAULT_ACCOUNT_ID, name=IMAGE_PARAMETER, value=IMAGE, parameter_type="String", description="",
        allowed_pattern=None, keyid=None, last_modified_date=0, version=1, data_type="text", tier=None, policies=None,
        labels=[], source_result=None,
    )  # fmt: skip
    ssm_backends[DEFAULT_ACCOUNT_ID][REGION]._parameters[IMAGE_PARAMETER] = [parameter]
    return ask_aws(REGION, GPU)


def test_aws_is_asked_for_what_cluster_yaml_needs(asked: Machine) -> None:
    assert (asked.image, asked.cpus, asked.gpus, asked.gpu_name) == (IMAGE, 48, 4, "NVIDIA A10G")
    assert asked.zones
    assert all(zone.startswith(REGION) for zone in asked.zones)
    assert asked.price_an_hour is asked.quota_cpus is None
    assert [reason.partition(":")[0] for reason in asked.unknown] == ["quota", "price"]


def test_the_answer_is_written_and_the_comments_stay(asked: Machine) -> None:
    before = (ROOT / "cluster.yaml").read_text()
    other = replace(asked, region="eu-central-1", zones=("a", "b"), type="p5.48xlarge", cpus=192, gpus=8)
    after = write_into(before, other)
    config = yaml.safe_load(after)
    gpu = config["available_node_types"]["gpu"]
    assert (config["provider"]["region"], config["provider"]["availability_zone"]) == ("eu-central-1", "a,b")
    assert (gpu["node_config"]["InstanceType"], gpu["node_config"]["ImageId"]) == ("p5.48xlarge", IMAGE)
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"], gpu["resources"]["bench_slot"]) == (192, 8, 1)
    head = config["available_node_types"]["head"]
    assert (head["node_config"]["InstanceType"], head["resources"]) == ("m5.xlarge", {"CPU": 0})
    assert before.count("#") == after.count("#")
    with pytest.raises(UserError, match="has no line like"):
        write_into("provider: {}", asked)


def test_a_machine_that_is_not_there_is_one_line(ec2: Any, asked: Machine) -> None:
    for machine_type, words in (("g9.metal", "g9.metal"), ("m5.xlarge", "has no GPU")):
        with pytest.raises(UserError, match=words):
            ask_aws(REGION, machine_type)


def test_the_command_writes_nothing_where_aws_refuses(ec2: Any, asked: Machine, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text((ROOT / "cluster.yaml").read_text())
    with pytest.raises(UserError):
        cluster(["aws", "gpu=m5.xlarge", f"file={file}"])
    assert NO_IMAGE in file.read_text()
    assert cluster(["aws", f"file={file}"]) == 0
    assert NO_IMAGE not in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]
