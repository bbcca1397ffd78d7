"""What is known of the devices that train: their peak FLOP/s, and how much memory there is. Imports no torch."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

TERA = 1e12
PEAKS: dict[str, tuple[float | None, float]] = {
    # name as torch.cuda.get_device_name gives it, without "NVIDIA ": (bf16 on tensor cores, dense; fp32 without them),
    # TFLOP/s. fp32 is the plain one because lethe trains in full float32, never in TF32. Where a vendor states only
    # the figure with sparsity, half of it. A name that is not here is unknown: a MIG slice ("... MIG 1g.10gb"), a
    # laptop's chip or a power-limited card is another device than the one whose name it begins with.
    "B200": (2250, 80),  # NVIDIA Blackwell architecture technical brief, HGX B200
    "H200": (989.5, 67),  # NVIDIA H200 datasheet, SXM
    "H200 NVL": (835.5, 60),  # the same, NVL
    "GH200 480GB": (989.5, 67),  # NVIDIA GH200 datasheet
    "H100 80GB HBM3": (989.5, 67),  # NVIDIA H100 datasheet, SXM
    "H100 NVL": (835.5, 60),  # the same, NVL
    "H100 PCIe": (756.5, 51),  # NVIDIA H100 PCIe datasheet
    "A100-SXM4-40GB": (312, 19.5),  # NVIDIA A100 datasheet
    "A100-SXM4-80GB": (312, 19.5),
    "A100-PCIE-40GB": (312, 19.5),
    "A100 80GB PCIe": (312, 19.5),
    "L4": (121, 30.3),  # NVIDIA L4 datasheet
    "L40": (181, 90.5),  # NVIDIA L40 datasheet
    "L40S": (362, 91.6),  # NVIDIA L40S datasheet
    "A10": (125, 31.2),  # NVIDIA A10 datasheet
    "RTX A6000": (154.8, 38.7),  # NVIDIA Ampere GA102 whitepaper
    "GeForce RTX 3090": (71, 35.6),  # the same, accumulating in float32
    "GeForce RTX 4090": (165.2, 82.6),  # NVIDIA Ada architecture whitepaper, accumulating in float32
    "Tesla T4": (None, 8.1),  # NVIDIA T4 datasheet; Turing and Volta have no bf16
    "Tesla V100-SXM2-16GB": (None, 15.7),  # NVIDIA V100 datasheet
    "Tesla V100-SXM2-32GB": (None, 15.7),
    "Tesla V100-PCIE-16GB": (None, 14),
    "Tesla V100-PCIE-32GB": (None, 14),
}


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s that the vendor states for a device and a precision (`bf16`, `fp32`); None for an unknown one."""
    bf16, fp32 = PEAKS.get(device.removeprefix("NVIDIA "), (None, None))
    peak = bf16 if precision == "bf16" else fp32
    return None if peak is None else peak * TERA


class Room(NamedTuple):
    """The memory that one worker has: where, how many bytes (None: unknown), among how many workers that is shared."""

    device: str
    bytes: int | None
    sharers: int


def room(cpus: float, gpus: float) -> Room:
    """The share of a worker that asks for `cpus` and `gpus` when as many run here as fit.

    The smallest GPU that is visible here where it asks for GPUs, else this machine's memory.
    """
    if gpus:
        found, sharers = visible_gpus(), int(1 / gpus) if gpus < 1 else 1
        device, size = min(found, key=lambda gpu: gpu[1]) if found else ("unknown GPU", None)
    else:
        device, size, sharers = "this machine", machine_memory(), max(1, int((os.cpu_count() or 1) / cpus))
    return Room(device, None if size is None else size // sharers, sharers)


def machine_memory() -> int:
    """Bytes of memory that this process can hope for: the machine's, or less where a cgroup says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such version of cgroups, or "max"
            continue
    return min(limits)


def visible_gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every NVIDIA GPU of this machine; none where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        rows = [line.rsplit(",", 1) for line in output.splitlines() if line.strip()]
        return [(name.strip(), int(mebibytes) * 2**20) for name, mebibytes in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def readable(size: int | None) -> str:
    """For people: `1.23 GiB`, `45 MiB`, `unknown`."""
    if size is None:
        return "unknown"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
