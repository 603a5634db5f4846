"""deploy/rayjob.yaml: what Kubernetes would accept and nobody would want."""

from typing import Any

import pytest
import yaml

from tests.support.deploy_files import ABSENT, IMAGE_TAG, RAY, ROOT, changed, open_to_the_world, secrets


def rayjob_faults(job: dict[str, Any]) -> list[str]:
    faults = secrets(job) + open_to_the_world(job)
    if (job.get("apiVersion"), job.get("kind")) != ("ray.io/v1", "RayJob"):
        faults.append("not a RayJob of ray.io/v1")
    spec = job["spec"]
    if not str(spec.get("entrypoint", "")).startswith("agegender "):
        faults.append("entrypoint: not a command of agegender")
    if spec.get("shutdownAfterJobFinishes") is not True:
        faults.append("shutdownAfterJobFinishes: the cluster outlives its job")
    if "rayClusterSpec" not in spec:
        return [*faults, "rayClusterSpec: missing"]
    cluster = spec["rayClusterSpec"]
    if cluster.get("rayVersion") != RAY:
        faults.append(f"rayVersion: not {RAY}")
    if cluster.get("authOptions") != {"mode": "token"}:
        faults.append("authOptions: whoever reaches the head may run code on it")
    head = cluster["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0":
        faults.append('head: num-cpus is not "0", so work is scheduled on it')
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            faults.append(f"{group['groupName']}: replicas outside of minReplicas to maxReplicas")
    groups = {"head": head} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return faults + [f"{name}: {fault}" for name, group in groups.items() for fault in pod_faults(group)]


def pod_faults(group: dict[str, Any]) -> list[str]:
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    limits = container.get("resources", {}).get("limits", {})
    faults = [f"no limit of {name}" for name in ("cpu", "memory") if name not in limits]
    if container.get("resources", {}).get("requests") != limits:
        faults.append("requests differ from limits, so the pod may get less than Ray believes")
    variant = "gpu" if "nvidia.com/gpu" in limits else "cpu"
    if not container["image"].endswith(f"/agegender:{IMAGE_TAG}-{variant}"):
        faults.append(f"image {container['image']} is not {IMAGE_TAG}-{variant}")
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        faults.append("may run as root")
    if "serviceAccountName" not in pod:
        faults.append("no serviceAccountName, so no way to S3")
    return faults


RAYJOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
CLUSTER = ("spec", "rayClusterSpec")
WORKER = (*CLUSTER, "workerGroupSpecs", 0)
WORKER_POD = (*WORKER, "template", "spec")
GPU_POD = (*CLUSTER, "workerGroupSpecs", 1, "template", "spec")


def test_the_job_manifest_has_no_fault() -> None:
    assert rayjob_faults(RAYJOB) == []
    assert [group["groupName"] for group in RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == ["cpu", "gpu"]


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("kind",), "RayCluster", "not a RayJob"),
        (("spec", "entrypoint"), ABSENT, "entrypoint"),
        (("spec", "shutdownAfterJobFinishes"), ABSENT, "shutdownAfterJobFinishes"),
        (CLUSTER, ABSENT, "rayClusterSpec: missing"),
        ((*CLUSTER, "rayVersion"), "2.9.0", "rayVersion"),
        ((*CLUSTER, "authOptions"), ABSENT, "authOptions"),
        ((*CLUSTER, "headGroupSpec", "rayStartParams"), {}, "head: num-cpus"),
        ((*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus"), 0, "head: num-cpus"),
        ((*WORKER, "minReplicas"), 20, "cpu: replicas outside"),
        ((*WORKER_POD, "containers", 0, "resources", "limits", "memory"), ABSENT, "cpu: no limit of memory"),
        ((*WORKER_POD, "containers", 0, "resources", "requests", "cpu"), "1", "cpu: requests differ from limits"),
        ((*WORKER_POD, "containers", 0, "image"), "r/agegender:latest", "cpu: image r/agegender:latest is not"),
        ((*GPU_POD, "containers", 0, "image"), f"r/agegender:{IMAGE_TAG}-cpu", "gpu: image"),
        ((*WORKER_POD, "securityContext"), ABSENT, "cpu: may run as root"),
        ((*WORKER_POD, "serviceAccountName"), ABSENT, "cpu: no serviceAccountName"),
        (
            (*WORKER_POD, "containers", 0, "env"),
            [{"name": "AWS_KEY", "value": "AKIAIOSFODNN7EXAMPLE"}],
            "value: a credential",
        ),
    ],
)
def test_a_fault_of_the_job_manifest_is_found(path: tuple[Any, ...], value: object, fault: str) -> None:
    found = rayjob_faults(changed(RAYJOB, path, value))
    assert any(fault in one for one in found), found
