"""The RayJob of KubeRay and the Dockerfile, checked without a cluster and without building an image."""

import argparse
import re
import shlex
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
import yaml

from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.verbs.flags import Parser, given_settings
from tests.toys.places import REPOSITORY

# What KubeRay's API reference has for these kinds, of what is of use here; Kubernetes refuses other fields.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"},
    "spec.rayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "spec.rayClusterSpec.authOptions": {"mode"},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams", "template"},
    "spec.rayClusterSpec.workerGroupSpecs.0": {
        "groupName",
        "replicas",
        "minReplicas",
        "maxReplicas",
        "rayStartParams",
        "template",
    },
}
POD, CONTAINER = {"containers", "volumes"}, {"name", "image", "resources", "volumeMounts"}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "jobs" / "rayjob.yaml").read_text())
    return loaded


def at(job: dict[str, Any], path: str) -> Any:
    found: Any = job
    for part in filter(None, path.split(".")):
        found = found[int(part)] if part.isdigit() else found[part]
    return found


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("path", FIELDS)
def test_the_rayjob_has_only_fields_that_kuberay_knows(job: dict[str, Any], path: str) -> None:
    assert set(at(job, path)) == FIELDS[path]


def test_every_pod_mounts_what_it_has_and_shows_a_token(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert at(job, "spec.rayClusterSpec.authOptions") == {"mode": "token"}
    for pod in pods(job):
        assert set(pod) == POD
        (container,) = pod["containers"]
        assert set(container) == CONTAINER
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests["memory"] == limits["memory"]


def test_the_ray_of_the_job_is_that_of_the_image(job: dict[str, Any]) -> None:
    assert at(job, "spec.rayClusterSpec.rayVersion") == version("ray")
    assert f"\nray=={version('ray')}\n" in (REPOSITORY / "requirements.lock").read_text()


def test_the_entrypoint_is_a_command_that_can_be_run(job: dict[str, Any]) -> None:
    program, verb, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "igd"
    parser = Parser(prog=f"igd {verb}", argument_default=argparse.SUPPRESS)
    import_module(f"igd_ray.verbs.{verb}").add_arguments(parser)
    settings = load_settings(EvaluateSettings, file=None, given=given_settings(parser.parse_args(words)))
    mounts = {mount["mountPath"] for pod in pods(job) for mount in pod["containers"][0]["volumeMounts"]}
    assert any(settings.catalog.startswith(f"{mount}/") for mount in mounts)


def test_the_image_is_made_by_the_steps_that_every_check_begins_with() -> None:
    steps = (REPOSITORY / "jobs" / "Dockerfile").read_text()
    made = re.findall(r"^RUN make (\S+)$", steps, re.MULTILINE)
    assert made == [".venv/.ready"]
    assert re.search(r"^step \.venv/\.ready$", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", steps, re.MULTILINE) for word in line.split()]
    assert all((REPOSITORY / name).exists() for name in copied)
    # What the Makefile's step and the package's build read.
    assert {"Makefile", "requirements.lock", "pyproject.toml", "README.md", "igd_ray", "catalog"} <= set(copied)
    linked = re.findall(r"/igd-ray/\.venv/bin/(\w+)", steps)
    assert linked == ["igd", "ray"]
