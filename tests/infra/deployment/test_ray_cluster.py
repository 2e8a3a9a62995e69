"""`ray_cluster.yaml` is what Ray's launcher accepts, and starts what this project has.

Beyond Ray's schema: its own AWS code makes key, network rules and machines of it in moto's EC2, which checks every
parameter against Amazon's API description. What only Amazon can say stays open: quotas, prices, the machine image.
"""

import json
import logging
import os
import shlex
import subprocess
from pathlib import Path

import boto3
import pytest
import yaml
from click import ClickException
from moto import mock_aws
from moto.ec2.models import instance_types
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from infra.ray.cluster import WORKER_NODES, worker_nodes

ROOT = Path(__file__).resolve().parents[3]
AWS = ROOT / "infra" / "aws"
GROUP = "sg-motiondirector"  # stands for the group's id, which the guide puts in its place


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture
def aws(monkeypatch, tmp_path, cluster):
    """moto's account with the roles of infra/aws; nothing of this machine's own, and none of Ray's cached clients."""
    used = {node["node_config"]["InstanceType"] for node in cluster["available_node_types"].values()}
    for name in set(instance_types.INSTANCE_TYPES) - used:  # Ray reads the whole catalogue: seconds
        monkeypatch.delitem(instance_types.INSTANCE_TYPES, name)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts the SSH key into ~/.ssh
    (tmp_path / ".ssh").mkdir()
    for cached in (aws_utils.client_cache, aws_utils.resource_cache):
        cached.cache_clear()
    with mock_aws():
        session = boto3.Session()
        make_roles(session.client("iam"))
        group = make_group(session.client("ec2"))
        for node in cluster["available_node_types"].values():
            assert node["node_config"]["SecurityGroupIds"] == [GROUP]
            node["node_config"]["SecurityGroupIds"] = [group]
        yield session
    for cached in (aws_utils.client_cache, aws_utils.resource_cache):
        cached.cache_clear()


def make_roles(iam):
    """Those of docs/cluster.md. moto reads policies as strictly as Amazon does."""
    trust = (AWS / "trust-policy.json").read_text()
    roles = {"head": ("storage", "head"), "worker": ("storage",), "service": ("serving",)}
    for name, policies in roles.items():
        name = f"motiondirector-{name}"
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        for policy in policies:
            document = (AWS / f"{policy}-policy.json").read_text()
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=document)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def make_group(ec2):
    """That of docs/cluster.md; its id."""
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="motiondirector", Description="motiondirector", VpcId=vpc)
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.7/32"}]}
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[ssh])
    return group["GroupId"]


def prepared(cluster):
    """As `ray up` has it before it launches anything."""
    return aws_config.bootstrap_aws(
        AWSNodeProvider.fillout_available_node_types_resources(prepare_config(cluster))
    )


def test_it_keeps_to_rays_cluster_schema(cluster):
    validate_config(prepare_config(cluster))


def test_a_schema_mistake_would_be_seen(cluster):
    cluster["available_node_types"]["head"]["resources"] = "many"
    with pytest.raises(Exception, match="many"):
        validate_config(prepare_config(cluster))


def test_workers_scale_to_zero_and_spot_comes_before_its_fallback(cluster):
    nodes = cluster["available_node_types"]
    workers = {name: node for name, node in nodes.items() if name != cluster["head_node_type"]}
    assert all(node.get("min_workers", 0) == 0 for node in workers.values())
    assert all(0 < node["max_workers"] <= cluster["max_workers"] for node in workers.values())
    spot, fallback = nodes["gpu_spot"], nodes["gpu_on_demand"]
    assert spot["priority"] > fallback["priority"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in fallback["node_config"]
    assert spot["node_config"]["InstanceType"] == fallback["node_config"]["InstanceType"]
    assert nodes["head"]["resources"] == {"CPU": 0}


def launched(cluster, gpus, spot):
    """What Ray's scheduler launches for workers of a GPU each. spot: 1 has any, 0 has just refused one."""
    types = AutoscalingConfig(cluster, skip_content_hash=True).get_node_type_configs()
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=cluster["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make({"CPU": 1, "GPU": 1})] * gpus
        ),
        recoverable_resource_availabilities={"gpu_spot": spot},
    )
    reply = ResourceDemandScheduler(AutoscalerEventLogger(logging.getLogger(__name__))).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_rays_scheduler_takes_spot_first_then_its_fallback(cluster):
    assert launched(cluster, 0, spot=1) == {}
    assert launched(cluster, 2, spot=1) == {"gpu_spot": 2}
    assert launched(cluster, 2, spot=0) == {"gpu_on_demand": 2}
    assert launched(cluster, 9, spot=1) == {"gpu_spot": 8, "gpu_on_demand": 1}
    assert sourced("RAY_enable_autoscaler_v2") == "1"  # the scheduler that does so


def test_ray_launches_these_machines(cluster, aws):
    config = prepared(cluster)
    types = config["available_node_types"]
    assert types["gpu_spot"]["resources"]["GPU"] == 1
    assert "accelerator_type:L4" in types["gpu_spot"]["resources"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node in types.items():
        kind = "head" if name == "head" else "worker"
        made = provider.create_node(node["node_config"], {TAG_RAY_NODE_KIND: kind}, 1)
        assert len(made) == 1, name
    profiles = aws.client("ec2").describe_iam_instance_profile_associations()
    assert len(profiles["IamInstanceProfileAssociations"]) == len(types)
    described = aws.client("ec2").describe_instances()["Reservations"]
    machines = [machine for reservation in described for machine in reservation["Instances"]]
    assert sorted(machine["InstanceType"] for machine in machines) == sorted(
        node["node_config"]["InstanceType"] for node in types.values()
    )
    assert sum(machine.get("InstanceLifecycle") == "spot" for machine in machines) == 2
    tags = [{tag["Key"]: tag["Value"] for tag in machine["Tags"]} for machine in machines]
    assert {(tag[TAG_RAY_CLUSTER_NAME], tag[TAG_RAY_NODE_KIND]) for tag in tags} == {
        ("motiondirector", "head"),
        ("motiondirector", "worker"),
    }


def test_a_misspelt_machine_parameter_would_be_seen(cluster, aws):
    cluster["available_node_types"]["gpu_spot"]["node_config"]["InstanceMarketOption"] = {}
    config = prepared(cluster)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    with pytest.raises(Exception, match="InstanceMarketOption"):
        provider.create_node(
            config["available_node_types"]["gpu_spot"]["node_config"], {TAG_RAY_NODE_KIND: "worker"}, 1
        )


def test_the_group_of_the_guide_is_used_as_it_is_and_no_other_is_made(cluster, aws):
    def groups():
        return aws.client("ec2").describe_security_groups()["SecurityGroups"]

    before = groups()
    config = prepared(cluster)
    assert groups() == before
    (own,) = cluster["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    chosen = [node["node_config"]["SecurityGroupIds"] for node in config["available_node_types"].values()]
    assert chosen == [[own]] * len(chosen)


def test_without_the_group_nothing_is_launched(cluster, aws):
    for node in cluster["available_node_types"].values():
        node["node_config"]["SecurityGroupIds"] = [GROUP]  # as it is before the guide's commands
    with pytest.raises((ClickException, AssertionError)):  # the latter where Ray does not colour its words
        prepared(cluster)
    assert aws.client("ec2").describe_instances()["Reservations"] == []


def test_storage_is_reached_by_the_machines_roles_and_no_key_is_copied(cluster):
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]
        for name, node in cluster["available_node_types"].items()
    }
    assert profiles.pop("head") == {"Name": "motiondirector-head"}
    assert all(profile == {"Name": "motiondirector-worker"} for profile in profiles.values())
    text = (ROOT / "ray_cluster.yaml").read_text().lower() + (AWS / "node.env").read_text().lower()
    assert "aws_secret" not in text
    assert "aws_access_key" not in text
    assert all(
        node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        for node in cluster["available_node_types"].values()
    )


def test_the_head_may_launch_its_workers_and_nothing_else(cluster):
    policy = json.loads((AWS / "head-policy.json").read_text())["Statement"]
    by_name = {statement["Sid"]: statement for statement in policy}
    condition = by_name["LaunchWorkersOfTheseTypes"]["Condition"]["StringEquals"]
    nodes = cluster["available_node_types"]
    workers = {node["node_config"]["InstanceType"] for name, node in nodes.items() if name != "head"}
    assert set(condition["ec2:InstanceType"]) == workers
    assert condition[f"aws:RequestTag/{TAG_RAY_CLUSTER_NAME}"] == cluster["cluster_name"]
    assert condition[f"aws:RequestTag/{TAG_RAY_NODE_KIND}"] == "worker"
    ending = by_name["TagAndEndThisClusters"]["Condition"]["StringEquals"]
    assert ending == {f"ec2:ResourceTag/{TAG_RAY_CLUSTER_NAME}": cluster["cluster_name"]}
    launches = [one for one in policy if "ec2:RunInstances" in one["Action"]]
    resources = {one["Sid"]: one["Resource"] for one in launches}
    of_kind = {kind: [sid for sid, named in resources.items() if f":{kind}/" in json.dumps(named)] for kind in ("image", "security-group")}  # fmt: skip
    assert of_kind == {"image": ["LaunchFromAmazonsImages"], "security-group": ["LaunchIntoTheGroup"]}
    images = by_name["LaunchFromAmazonsImages"]
    assert images["Condition"] == {"StringEquals": {"ec2:Owner": "amazon"}}
    (group,) = nodes["head"]["node_config"]["SecurityGroupIds"]
    assert resources["LaunchIntoTheGroup"] == f"arn:aws:ec2:*:*:security-group/{group}"
    assert all(node["node_config"]["SecurityGroupIds"] == [group] for node in nodes.values())
    image = nodes["head"]["node_config"]["ImageId"].removeprefix("resolve:ssm:")
    assert f"arn:aws:ssm:*::parameter{image}".startswith(
        by_name["FindTheMachineImage"]["Resource"].removesuffix("*")
    )
    assert not any("*" in action for statement in policy for action in statement["Action"])


def test_serving_reads_the_registry_and_writes_videos_alone():
    policy = json.loads((AWS / "serving-policy.json").read_text())["Statement"]
    writing = ("Put", "Delete", "Abort", "Restore", "*")
    for statement in policy:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if any(word in action for action in actions for word in writing):
            assert statement["Resource"].endswith(":::motiondirector-example/results/*")
    reading = [one["Resource"] for one in policy if "s3:GetObject" in one["Action"]]
    assert {resource.rpartition(":::")[2] for resource in reading} == {
        "motiondirector-example/registry/*",
        "motiondirector-example/results/*",
    }


def sourced(name):
    """A variable as a shell has it after node.env."""
    script = f'. {shlex.quote(str(AWS / "node.env"))}; printf %s "${name}"'
    return subprocess.run(
        ["bash", "-euc", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/h", "PATH": "/bin"},
    ).stdout


def test_drivers_know_what_the_autoscaler_can_add(cluster):
    nodes = cluster["available_node_types"]
    workers = [node for name, node in nodes.items() if name != "head" for _ in range(node["max_workers"])]
    told = worker_nodes(sourced(WORKER_NODES))
    assert len(told) <= cluster["max_workers"]
    for wanted in ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}):
        there = sum(worker["resources"] == wanted for worker in workers)
        assert told.count(wanted) == min(there, cluster["max_workers"] - (len(told) - told.count(wanted)))


def test_every_node_asks_for_the_token(cluster):
    assert sourced("RAY_AUTH_MODE") == "token"
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]
    for command in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        assert command.startswith(". ~/motiondirector/infra/aws/node.env; ")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_setup_installs_what_is_here(cluster):
    setup = " ".join(cluster["setup_commands"])
    assert cluster["file_mounts"]["/home/ubuntu/motiondirector"] == "."
    assert "-c constraints.txt" in setup
    assert (ROOT / "constraints.txt").is_file()
    assert sourced("PATH").startswith("/h/motiondirector/.venv/bin:")
    for command in setup, *cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_lines_that_start_ray_have_options_that_ray_has(cluster, tmp_path):
    """Each line runs in a shell as on a node, with a `ray` that only tells what it was given; Ray's own command line reads it."""
    from click import UsageError
    from ray.scripts.scripts import cli

    project = tmp_path / "motiondirector"
    (project / "infra").mkdir(parents=True)
    (project / "infra" / "aws").symlink_to(AWS)
    ray = project / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)

    def started(line):
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.1"}
        told = subprocess.run(
            ["bash", "-c", line], env=environment, capture_output=True, text=True, check=True
        )
        name, command, words = cli.resolve_command(
            cli.make_context("ray", ["status"]), told.stdout.splitlines()
        )
        return name, command.make_context(name, words).params

    head = [started(line) for line in cluster["head_start_ray_commands"]]
    worker = [started(line) for line in cluster["worker_start_ray_commands"]]
    assert [name for name, _ in head] == [name for name, _ in worker] == ["stop", "start"]
    assert (head[1][1]["head"], head[1][1]["port"]) == (True, 6379)
    assert (worker[1][1]["head"], worker[1][1]["address"]) == (False, "10.0.0.1:6379")
    with pytest.raises(UsageError, match="dashboard-hosts"):
        started(cluster["head_start_ray_commands"][-1].replace("--dashboard-host=", "--dashboard-hosts="))
