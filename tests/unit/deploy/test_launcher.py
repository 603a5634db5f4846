"""cluster.yaml and deploy/aws.yaml: what Ray's schema would not tell before money is spent."""

import re
from typing import Any

import pytest
import yaml

from tests.support.deploy_files import ABSENT, PYTHON_TAG, RAY, ROOT, changed, open_to_the_world, secrets


def launcher_faults(config: dict[str, Any]) -> list[str]:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = {name: kind for name, kind in types.items() if kind is not head}
    faults = secrets(config) + open_to_the_world(config)
    if head["resources"].get("CPU") != 0:
        faults.append("head: CPU is not 0, so work is scheduled on it")
    if "InstanceMarketOptions" in head["node_config"]:
        faults.append("head: spot, and every job ends with it")
    if sum(kind["max_workers"] for kind in types.values()) != config["max_workers"]:
        faults.append("max_workers: not the sum of the types', so one of the two says what never holds")
    for name, kind in types.items():
        faults += [f"{name}: {fault}" for fault in node_type_faults(kind, config["docker"]["image"])]
    faults += [
        f"{name}: not spot" for name, kind in workers.items() if "InstanceMarketOptions" not in kind["node_config"]
    ]
    if not any("'.[train]'" in command for command in config["setup_commands"]):
        faults.append("setup_commands: without the extra train, so its nodes cannot train")
    with_gpu = [kind["resources"]["CPU"] for kind in workers.values() if "GPU" in kind["resources"]]
    if not with_gpu or min(with_gpu) < max(kind["resources"]["CPU"] for kind in workers.values()):
        faults.append("no GPU type, or one with fewer CPUs than a training worker asks for")
    return faults


def node_type_faults(kind: dict[str, Any], image: str) -> list[str]:
    faults = []
    if kind["min_workers"] > kind["max_workers"]:
        faults.append("min_workers above max_workers")
    foreign = set(kind["resources"]) - {"CPU", "GPU", "memory", "object_store_memory"}
    faults += [f"resource {name!r} is none of Ray's own" for name in foreign]
    if "GPU" in kind["resources"] and kind["min_workers"] > 0:
        faults.append("GPUs that nobody asked for")
    variant = "gpu" if "GPU" in kind["resources"] else "cpu"
    image = kind.get("docker", {}).get("worker_image", image)
    if image != f"rayproject/ray:{RAY}-{PYTHON_TAG}-{variant}":
        faults.append(f"image {image} is not Ray {RAY} for {variant}")
    node = kind["node_config"]
    if not node.get("SecurityGroupIds"):
        faults.append("no SecurityGroupIds, so Ray's launcher makes a group that admits SSH from everywhere")
    if "Name" not in node.get("IamInstanceProfile", {}):
        faults.append("no IamInstanceProfile")
    return faults


LAUNCHER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
GPU = ("available_node_types", "gpu")
CPU = ("available_node_types", "cpu")
HEAD = ("available_node_types", "head")


def test_the_launcher_file_has_no_fault() -> None:
    assert launcher_faults(LAUNCHER) == []
    assert (ROOT / "cluster.yaml").read_text().count("# CHANGE") == 3


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ((*HEAD, "resources", "CPU"), 4, "head: CPU is not 0"),
        ((*HEAD, "node_config", "InstanceMarketOptions"), {"MarketType": "spot"}, "head: spot"),
        ((*CPU, "node_config", "InstanceMarketOptions"), ABSENT, "cpu: not spot"),
        ((*CPU, "min_workers"), 17, "cpu: min_workers above max_workers"),
        (("max_workers",), 16, "max_workers: not the sum"),
        ((*GPU, "resources"), {"CPU": 16, "gpu": 1}, "gpu: resource 'gpu' is none of Ray's own"),
        ((*GPU, "resources"), {"CPU": 8, "GPU": 1}, "fewer CPUs than a training worker"),
        ((*GPU, "min_workers"), 1, "gpu: GPUs that nobody asked for"),
        ((*GPU, "docker"), ABSENT, f"is not Ray {RAY} for gpu"),
        (
            ("docker", "image"),
            f"rayproject/ray:latest-{PYTHON_TAG}-cpu",
            f"cpu: image rayproject/ray:latest-{PYTHON_TAG}-cpu",
        ),
        (("docker", "image"), "rayproject/ray:2.9.0-py311-cpu", f"is not Ray {RAY} for cpu"),
        ((*CPU, "node_config", "SecurityGroupIds"), ABSENT, "cpu: no SecurityGroupIds"),
        ((*HEAD, "node_config", "SecurityGroupIds"), [], "head: no SecurityGroupIds"),
        ((*CPU, "node_config", "IamInstanceProfile"), ABSENT, "cpu: no IamInstanceProfile"),
        (
            ("provider", "security_group"),
            {"GroupName": "x", "IpPermissions": [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]},
            "0.0.0.0/0: admits everyone",
        ),
        (("head_start_ray_commands",), ["ray start --head --dashboard-host=0.0.0.0"], "a dashboard for everyone"),
        (("provider", "aws_credentials"), {"aws_secret_access_key": "x"}, "aws_secret_access_key: a credential"),
        (("setup_commands",), ["uv pip install ."], "without the extra train"),
        (("setup_commands",), ["export K=AKIAIOSFODNN7EXAMPLE"], "setup_commands: a credential"),
    ],
)
def test_a_fault_of_the_launcher_file_is_found(path: tuple[str, ...], value: object, fault: str) -> None:
    found = launcher_faults(changed(LAUNCHER, path, value))
    assert any(fault in one for one in found), found


class TemplateLoader(yaml.SafeLoader):
    """Reads CloudFormation's tags as ``{"Ref": "Name"}``."""


TemplateLoader.add_multi_constructor("!", lambda loader, tag, node: {tag: loader.construct_scalar(node)})
ACCOUNT = yaml.load((ROOT / "deploy" / "aws.yaml").read_text(), TemplateLoader)


def account_faults(template: dict[str, Any]) -> list[str]:
    faults = secrets(template) + open_to_the_world(template)
    resources = template["Resources"].values()
    rules = [r["Properties"] for r in resources if r["Type"] == "AWS::EC2::SecurityGroupIngress"]
    groups = [r["Properties"] for r in resources if r["Type"] == "AWS::EC2::SecurityGroup"]
    rules += [rule for group in groups for rule in group.get("SecurityGroupIngress", [])]
    for rule in rules:
        among_nodes = rule.get("SourceSecurityGroupId") == {"GetAtt": "Nodes.GroupId"}
        ssh = rule.get("CidrIp") == {"Ref": "SshFrom"} and rule["FromPort"] == rule["ToPort"] == 22
        if not (among_nodes or ssh):
            faults.append(f"ingress that is neither SSH from SshFrom nor among the nodes: {rule}")
    wide = re.compile(template["Parameters"]["SshFrom"]["AllowedPattern"])
    faults += [f"SshFrom may be {all_}" for all_ in ("0.0.0.0/0", "0.0.0.0/8") if wide.fullmatch(all_)]
    profiles = {r["Properties"].get("InstanceProfileName") for r in resources}
    wanted = {t["node_config"]["IamInstanceProfile"]["Name"] for t in LAUNCHER["available_node_types"].values()}
    return faults + [f"no profile {name}, which cluster.yaml names" for name in wanted - profiles]


def test_the_account_file_has_no_fault() -> None:
    assert account_faults(ACCOUNT) == []
    assert re.fullmatch(ACCOUNT["Parameters"]["SshFrom"]["AllowedPattern"], "203.0.113.7/32")


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("Resources", "Nodes", "Properties", "SecurityGroupIngress", 0, "CidrIp"), "0.0.0.0/0", "admits everyone"),
        (("Resources", "Nodes", "Properties", "SecurityGroupIngress", 0, "ToPort"), 65535, "neither SSH from SshFrom"),
        (("Resources", "NodesAmongThemselves", "Properties", "SourceSecurityGroupId"), ABSENT, "neither SSH from"),
        (("Parameters", "SshFrom", "AllowedPattern"), ".*", "SshFrom may be 0.0.0.0/0"),
        (("Resources", "HeadProfile", "Properties", "InstanceProfileName"), "other", "no profile agegender-head"),
    ],
)
def test_a_fault_of_the_account_file_is_found(path: tuple[Any, ...], value: object, fault: str) -> None:
    found = account_faults(changed(ACCOUNT, path, value))
    assert any(fault in one for one in found), found
