"""cluster.yaml: what Ray validates without a cloud, and what it does not look at."""

import copy
import re
from typing import Any

import pytest
import yaml

from tests.toys.places import REPOSITORY

TEXT = (REPOSITORY / "cluster.yaml").read_text()

# What EC2's RunInstances and GCP's instances take, of what is of use here: Ray passes other words on unseen.
KNOWN = {
    "aws": {
        "InstanceType",
        "InstanceInitiatedShutdownBehavior",
        "InstanceMarketOptions",
        "BlockDeviceMappings",
        "IamInstanceProfile",
        "ImageId",
    },
    "gcp": {"machineType", "scheduling", "disks", "serviceAccounts", "guestAccelerators"},
}


def on_gcp(text: str) -> str:
    """Make the three edits that the file's head describes."""
    lines = []
    where = ""
    for line in text.splitlines():
        marker = re.match(r" *# --( AWS| GCP|$)", line)
        if marker:
            where = marker[1].strip()
        elif where == "AWS":
            line = f"# {line}"
        elif where == "GCP":
            line = re.sub(r"^( *)# ", r"\1", line, count=1)
        lines.append(line)
    assert text.count("# -- AWS") == 3
    return "\n".join(lines)


CLOUDS = {"aws": TEXT, "gcp": on_gcp(TEXT)}


@pytest.fixture(params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(cloud: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLOUDS[cloud])
    assert loaded["provider"]["type"] == cloud
    return loaded


def validate(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate(config)


def test_with_the_lines_below_4_workers_have_credentials_for_the_catalog(cloud: str) -> None:
    name = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cloud]
    text = re.sub(rf"^( *)# ({name}: )", r"\1\2", CLOUDS[cloud], flags=re.MULTILINE)
    config = yaml.safe_load(text)
    validate(config)
    assert name in config["available_node_types"]["gpu_worker"]["node_config"]
    # Ray gives the head of an AWS cluster a profile of its own, which may not pass one on.
    assert (name in config["available_node_types"]["head"]["node_config"]) == (cloud == "aws")


def test_rays_validation_is_alive(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="idle_timout_minutes"):
        validate({**config, "idle_timout_minutes": 5})


def test_workers_are_spot_from_zero_and_the_head_is_neither(config: dict[str, Any], cloud: str) -> None:
    head, worker = (config["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert head["resources"] == {"CPU": 0}
    assert worker["resources"]["GPU"] == 1
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    spot = {
        "aws": ("InstanceMarketOptions", {"MarketType": "spot"}),
        "gcp": ("scheduling", [{"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}]),
    }
    name, value = spot[cloud]
    assert worker["node_config"][name] == value
    assert name not in head["node_config"]


def test_no_key_is_misspelt_where_ray_does_not_look(config: dict[str, Any], cloud: str) -> None:
    for kind in config["available_node_types"].values():
        assert set(kind["node_config"]) <= KNOWN[cloud]
        assert set(kind) <= {"node_config", "resources", "min_workers", "max_workers"}


def test_what_is_forgotten_ends(config: dict[str, Any]) -> None:
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False
    assert any(command.startswith("sudo shutdown -h +") for command in config["initialization_commands"])


def test_nothing_is_open_but_ssh(config: dict[str, Any], cloud: str) -> None:
    if cloud == "aws":
        opened = config["provider"]["security_group"]["IpPermissions"]
        assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in opened] == [(22, 22, "tcp")]
    (start,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start.split()


def test_every_node_has_the_token_and_asks_for_it(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 /home/ray/.ray/auth_token" in config["setup_commands"]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_images_and_packages_are_pinned(config: dict[str, Any]) -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = re.search(r"^ray(?:\[.*\])?==(\S+)", lock, re.MULTILINE)
    assert locked is not None
    for name in ("head_image", "worker_image"):
        assert re.fullmatch(rf"rayproject/ray:{re.escape(locked[1])}-py311-[cg]pu", config["docker"][name])
    assert any("requirements.lock" in command for command in config["setup_commands"])
    assert "results" in config["rsync_exclude"]
