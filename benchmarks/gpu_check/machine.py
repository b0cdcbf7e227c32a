"""What is here, and what its meters say while it works."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import time

import pynvml

import orchestrator as orc
from benchmarks.gpu_check.outcome import Figure, Setting, Skipped, Tell
from benchmarks.launchers import JOB
from orchestrator.agent.system_metrics import Sampler
from orchestrator.config import load
from orchestrator.config.hardware import local_gpus

PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "transformers")
BURN_S = 8.0
SAMPLE_EVERY_S = 0.25
# A board's own counter and the mean of its power readings, which are averages themselves.
COUNTER_TOLERANCE = 0.15
NEAR = 0.15


def machine(setting: Setting, tell: Tell) -> None:
    """Hardware and versions; whether a preset of ours knows the GPU."""
    tell(Figure("Python", platform.python_version()))
    for name in PACKAGES:
        try:
            tell(Figure(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            needed = name != "transformers"
            tell(Figure(name, "not there", "", "there" if needed else "", False if needed else None))
    if not setting.cuda:
        return
    for gpu in local_gpus():
        tell(Figure(f"GPU {gpu.index}", gpu.product))
        tell(Figure(f"GPU {gpu.index}, memory", gpu.memory_bytes / 2**30, "GiB"))
    preset = load.local_gpu()
    tell(Figure("preset", preset, "", "one of the GPU's own", preset != "other_nvidia"))
    pynvml.nvmlInit()
    tell(Figure("driver", str(pynvml.nvmlSystemGetDriverVersion())))


def meters(setting: Setting, tell: Tell) -> None:
    """Our sampler and the board's energy counter, while a process multiplies matrices."""
    if not setting.cuda:
        raise Skipped("the meters are a GPU's")
    gpu = local_gpus()[0]
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    sampler = Sampler(SAMPLE_EVERY_S, [gpu.uuid])
    command = [sys.executable, str(JOB / "multiplies.py"), str(BURN_S)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "begun":
            raise RuntimeError(f"the process that was to multiply ended with {process.wait()}")
        begun_s, begun_mj = time.monotonic(), _energy_mj(handle)
        samples = []
        while process.poll() is None:
            samples += [sample] if (sample := sampler.sample()) else []
            time.sleep(SAMPLE_EVERY_S / 5)
        took_s, ended_mj = time.monotonic() - begun_s, _energy_mj(handle)
        flops = json.loads(process.stdout.read())["flops"]
    finally:
        process.kill()
        process.wait()
    _tell_meters(tell, samples, flops)
    if begun_mj is None or ended_mj is None:
        tell(Figure("energy counter", "not there"))
        return
    counted_w = (ended_mj - begun_mj) / 1000 / took_s
    read_w = sum(sample["gpu_0_power_usage_watts"] for sample in samples) / len(samples)
    near = abs(counted_w / read_w - 1) <= COUNTER_TOLERANCE
    tell(Figure("power by the energy counter", counted_w, "W", f"within {COUNTER_TOLERANCE:.0%}", near))


def _tell_meters(tell: Tell, samples: list[dict[str, float]], flops: float) -> None:
    if not samples:
        raise RuntimeError("the sampler gave no sample")
    tell(Figure("bf16 products of 8192", flops / 1e12, "TFLOP/s"))
    gpu = orc.compose("job=pretrain").gpu
    if (peak := gpu.peak_flops.get("bf16")) is not None:
        share = flops / peak
        tell(Figure("share of the data sheet's peak", share, "", "0.4 to 1", 0.4 <= share <= 1))
        planned = gpu.matmul_efficiency["bf16"]
        near = abs(share - planned) < NEAR
        tell(Figure("share that plans take for products", planned, "", "near it", near))
    tell(Figure("samples", len(samples), "", "10 at least", len(samples) >= 10))
    last = samples[-2 if len(samples) > 1 else -1]
    for name, unit in (("utilization_percentage", "%"), ("power_usage_watts", "W")):
        value = last.get(f"gpu_0_{name}")
        tell(Figure(f"sampled {name}", "none" if value is None else value, unit, "above 0", bool(value)))


def _energy_mj(handle: object) -> int | None:
    """Millijoules since the driver was loaded; None on a board that counts none."""
    try:
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return None
