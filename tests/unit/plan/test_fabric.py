"""Golden environment of every cluster, and who wins where the user sets a variable too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import load as schema
from orchestrator.config.schema import FabricConfig, SettingConfig
from orchestrator.plan.environment import Setting, interconnect_environment
from tests.support.compositions import config_of
from tests.support.golden_text import FOLDER, assert_golden

CLUSTERS = sorted(path.stem for path in (schema.conf_dir() / "cluster").glob("*.yaml"))

FABRIC = FabricConfig(
    name="efa",
    environment={"NCCL_SOCKET_IFNAME": SettingConfig(value="en", source="cheatsheet")},
    leave_unset={"RDMAV_FORK_SAFE": "breaks newer kernels"},
)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_environment_of_cluster(cluster: str) -> None:
    """Set UPDATE_GOLDEN=1 to write what the configuration says now."""
    fabric = config_of(f"cluster={cluster}").fabric
    lines = [f"fabric {fabric.name}"]
    for name, setting in interconnect_environment(fabric, {}).items():
        lines.append(f"{name}={setting.value}  # {setting.source}")
    lines += [f"unset {name}  # {reason}" for name, reason in sorted(fabric.leave_unset.items())]
    text = "\n".join(lines) + "\n"
    assert_golden(f"environment_{cluster}.txt", text)


def test_every_golden_file_belongs_to_a_cluster() -> None:
    assert sorted(p.stem for p in FOLDER.glob("environment_*.txt")) == [f"environment_{c}" for c in CLUSTERS]


def test_user_value_wins_and_says_what_it_replaced() -> None:
    settings = interconnect_environment(FABRIC, {"NCCL_SOCKET_IFNAME": "ens5", "NCCL_DEBUG": "INFO"})
    assert list(settings) == ["NCCL_DEBUG", "NCCL_SOCKET_IFNAME"]
    assert settings["NCCL_DEBUG"] == Setting("INFO", "env.NCCL_DEBUG, set by the user")
    assert settings["NCCL_SOCKET_IFNAME"] == Setting(
        "ens5", "env.NCCL_SOCKET_IFNAME, set by the user instead of en (cheatsheet)"
    )


def test_user_value_for_a_variable_to_leave_unset_carries_the_warning() -> None:
    setting = interconnect_environment(FABRIC, {"RDMAV_FORK_SAFE": "1"})["RDMAV_FORK_SAFE"]
    assert setting.value == "1"
    assert "set by the user; WARNING: efa wants it unset: breaks newer kernels" in setting.source


LOOPBACK = FabricConfig(
    name="loopback",
    environment={
        "GLOO_SOCKET_IFNAME": SettingConfig(value="lo", source="PyTorch"),
        "NCCL_SOCKET_IFNAME": SettingConfig(value="lo", source="NCCL"),
        "NCCL_DEBUG": SettingConfig(value="lo", source="a value that looks like it"),
    },
)


def test_several_nodes_meet_on_the_interface_of_their_address_and_not_on_loopback() -> None:
    one = interconnect_environment(LOOPBACK, {}, nodes=1)
    assert {setting.value for setting in one.values()} == {"lo"}
    three = interconnect_environment(LOOPBACK, {}, nodes=3)
    assert three["GLOO_SOCKET_IFNAME"].value == "{interface}"
    assert three["NCCL_SOCKET_IFNAME"].value == "={interface}", "NCCL takes a prefix otherwise"
    assert three["NCCL_DEBUG"].value == "lo"
    assert "the interface of the node's address in Ray" in three["GLOO_SOCKET_IFNAME"].source


def test_an_interface_that_the_user_names_is_used_on_several_nodes_too() -> None:
    settings = interconnect_environment(LOOPBACK, {"GLOO_SOCKET_IFNAME": "ens6"}, nodes=3)
    assert settings["GLOO_SOCKET_IFNAME"].value == "ens6"
    assert settings["NCCL_SOCKET_IFNAME"].value == "={interface}"


def test_ethernet_asks_for_the_interface_of_the_address() -> None:
    config = config_of("fabric=ethernet", '+env.NCCL_SOCKET_IFNAME="=ens6"', "cluster.nodes=2")
    settings = interconnect_environment(config.fabric, config.env, nodes=2)
    assert settings["GLOO_SOCKET_IFNAME"].value == "{interface}"
    assert settings["NCCL_SOCKET_IFNAME"].value == "=ens6"


@given(st.dictionaries(st.sampled_from(["NCCL_SOCKET_IFNAME", "RDMAV_FORK_SAFE", "A", "B"]), st.text()))
def test_every_user_value_survives(user: dict[str, str]) -> None:
    settings = interconnect_environment(FABRIC, user)
    assert settings.keys() == FABRIC.environment.keys() | user.keys()
    for name, value in user.items():
        assert settings[name].value == value
        assert "set by the user" in settings[name].source
