"""A load for a model on a machine, for tests of serving."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from omegaconf import OmegaConf

from orchestrator.config.load import conf_dir
from orchestrator.config.schema import ClusterConfig, FabricConfig, GpuConfig, ModelConfig, PlannerConfig
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.serving.request import Load, ServingRequest, Software


@functools.cache
def option(group: str, name: str, schema: type) -> Any:
    """A file of ``conf/`` as its dataclass."""
    planner = OmegaConf.load(conf_dir() / "planner" / "default.yaml")
    root = OmegaConf.create({"planner": planner})
    root[group] = OmegaConf.merge(
        OmegaConf.structured(schema), OmegaConf.load(conf_dir() / group / f"{name}.yaml")
    )
    return OmegaConf.to_object(root[group])


def machine(gpu: str) -> Machine:
    """A node of eight of them."""
    node = ClusterConfig(name="node", node_type="eight GPUs", nodes=1, gpus_per_node=8)
    return Machine.of(node, option("gpu", gpu, GpuConfig), FabricConfig(name="none"))


def request(model: str = "llama3_8b", gpu: str = "h100_sxm", **changes: Any) -> ServingRequest:
    """Keys of the load and of the software are told apart by name."""
    loads = {field.name for field in dataclasses.fields(Load)}
    load = {"requests_per_day": 1e6, "tokens_in": 500, "tokens_out": 300}
    load |= {key: value for key, value in changes.items() if key in loads}
    software = {key: value for key, value in changes.items() if key not in loads}
    return ServingRequest(
        model=option("model", model, ModelConfig),
        load=Load(**load),
        software=Software(**software),
        machine=machine(gpu),
        memory_bytes=option("gpu", gpu, GpuConfig).memory_bytes,
        constants=option("planner", "default", PlannerConfig),
        usd_per_gpu_hour=2.0,
    )
