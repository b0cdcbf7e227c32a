"""The file of Ray's launcher: valid by the schema that Ray ships, after its own defaults are filled in."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from orchestrator.config.export_schema import Cloud
from orchestrator.errors import ConfigError
from tests.unit.export.orders import only, rendered

AZURE = ("cluster=azure_nd_h100_v5", "job=llama3_8b", "cluster.nodes=8")
AWS = ("cluster=aws_p5", "job=tiny_gpt")
NETWORK = {"subnets": ["subnet-0a"], "security_groups": ["sg-0a"]}
GCP = ("cluster=gcp_a4", "job=tiny_gpt")
GCP_NETWORKS = {"project": "lab", "subnets": [f"net-{number}" for number in range(10)]}


def launcher(*words: str, **keys: Any) -> dict[str, Any]:
    (text,) = rendered("ray-up", *words, ray_up=keys).files.values()
    return only(text)


@pytest.mark.parametrize(
    ("words", "keys"), [(AZURE, {}), (AWS, NETWORK), (GCP, GCP_NETWORKS)], ids=["azure", "aws", "gcp"]
)
def test_ray_takes_it(words: tuple[str, ...], keys: dict[str, Any]) -> None:
    made = launcher(*words, **keys)
    schema = json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(made, schema)
    types = made["available_node_types"]
    assert made["head_node_type"] in types
    assert sum(one.get("min_workers", 0) for one in types.values()) == made["max_workers"]


def test_the_machines_are_the_plan_s_and_the_head_has_no_work() -> None:
    made = launcher(*AZURE)
    head, worker = made["available_node_types"]["head"], made["available_node_types"]["worker"]
    assert (worker["min_workers"], worker["max_workers"], worker["resources"]) == (
        8,
        8,
        {"CPU": 64, "GPU": 8},
    )
    parameters = worker["node_config"]["azure_arm_parameters"]
    assert parameters["vmSize"] == "Standard_ND96isr_H100_v5"
    assert parameters["imageOffer"] == "ubuntu-hpc"
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in made["head_start_ray_commands"][0]


def test_every_ray_asks_for_the_token_of_whoever_rents() -> None:
    made = launcher(*AZURE)
    assert made["file_mounts"] == {"/home/orchestrator/.ray/auth_token": "~/.ray/auth_token"}
    commands = made["head_start_ray_commands"] + made["worker_start_ray_commands"]
    assert all(command.startswith("RAY_AUTH_MODE=token ray start ") for command in commands)


def test_the_container_reaches_the_fabric() -> None:
    options = launcher(*AZURE)["docker"]["worker_run_options"]
    assert "--device=/dev/infiniband" in options
    assert "--volume=/opt/microsoft/ndv5-topo.xml:/opt/microsoft/ndv5-topo.xml:ro" in options
    (shm,) = [int(one.partition("=")[2]) for one in options if one.startswith("--shm-size=")]
    assert shm == pytest.approx(2 * 8.03e9 * 14 / 8 + 9e9, rel=1e-3)


def test_efa_has_an_interface_for_each_network_card() -> None:
    interfaces = launcher(*AWS, **NETWORK)["available_node_types"]["worker"]["node_config"][
        "NetworkInterfaces"
    ]
    assert [one["NetworkCardIndex"] for one in interfaces] == list(range(32))
    assert [one["DeviceIndex"] for one in interfaces] == [0] + [1] * 31
    assert {one["InterfaceType"] for one in interfaces[1:]} == {"efa-only"}


def test_inifiniband_between_single_machines_of_azure_is_not_promised() -> None:
    assert "in no scale set" in " ".join(rendered("ray-up", *AZURE).remarks)


@pytest.mark.parametrize(
    ("words", "keys", "why"),
    [
        (("cluster=dgx_h100", "job=tiny_gpt"), {}, "cluster=dgx_h100: .* NVIDIA DGX H100 is none of them"),
        (("cluster=gcp_a3_mega", "job=tiny_gpt"), {}, "cluster=gcp_a3_mega: cannot be rented .* daemon"),
        (AWS, {}, r"ray_up.subnets=\[\]: EFA"),
        (GCP, {}, "ray_up.project=null: GCP wants one"),
        (GCP, {"project": "lab"}, r"ray_up.subnets=\[\]: a worker has an interface in each network"),
        (AZURE, {"image": "ubuntu"}, "ray_up.image=ubuntu: Azure's are PUBLISHER:OFFER:SKU:VERSION"),
    ],
)
def test_what_ray_cannot_rent_is_refused_with_the_reason(
    words: tuple[str, ...], keys: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        launcher(*words, **keys)


def test_spot_machines_are_the_workers_alone() -> None:
    for words, keys, cloud in (
        (AZURE, {}, Cloud.azure),
        (AWS, NETWORK, Cloud.aws),
        (GCP, GCP_NETWORKS, Cloud.gcp),
    ):
        types = launcher(*words, **keys, spot=True)["available_node_types"]
        assert "spot" in json.dumps(types["worker"]).lower(), cloud
        assert "spot" not in json.dumps(types["head"]).lower(), cloud
