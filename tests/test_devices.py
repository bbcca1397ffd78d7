"""Devices that are known, and the many that must not be guessed."""

import os
from pathlib import Path

import pytest

from lethe import devices
from lethe.devices import PEAKS, machine_memory, peak_flops, readable, room, visible_gpus


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 67e12),
        ("NVIDIA H100 PCIe", "bf16", 756.5e12),
        ("NVIDIA H200", "bf16", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("A100-SXM4-40GB", "fp32", 19.5e12),  # older drivers leave the vendor out
        ("Tesla T4", "fp32", 8.1e12),
    ],
)
def test_a_known_device_has_its_vendors_dense_peak(name: str, precision: str, peak: float):
    assert peak_flops(name, precision) == pytest.approx(peak)


@pytest.mark.parametrize(
    "name",
    [
        "x86_64 AVX512",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3e",
        "AMD Instinct MI300X",
        "nvidia h200",
        "",
    ],
)
def test_another_device_is_unknown_however_alike(name: str):
    assert peak_flops(name, "bf16") is None
    assert peak_flops(name, "fp32") is None


def test_no_bf16_before_ampere():
    assert {name for name, (bf16, _) in PEAKS.items() if bf16 is None} == {n for n in PEAKS if n.startswith("Tesla")}


def test_tensor_cores_are_faster_than_plain_float32():
    assert all(bf16 is None or 1.9 * fp32 < bf16 < 40 * fp32 for bf16, fp32 in PEAKS.values())


def test_a_worker_on_the_cpu_has_its_share_of_this_machine():
    cores = os.cpu_count() or 1
    alone = room(cpus=cores, gpus=0)
    assert alone == ("this machine", machine_memory(), 1)
    assert room(cpus=1, gpus=0).sharers == cores
    assert room(cpus=1, gpus=0).bytes == machine_memory() // cores
    assert room(cpus=4 * cores, gpus=0).sharers == 1


def test_a_worker_on_a_gpu_has_its_fraction_of_the_smallest_one(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: [("NVIDIA H200", 140 * 2**30), ("NVIDIA L4", 24 * 2**30)])
    assert room(cpus=1, gpus=0.25) == ("NVIDIA L4", 6 * 2**30, 4)
    assert room(cpus=1, gpus=2).sharers == 1
    monkeypatch.setattr(devices, "visible_gpus", list)
    assert room(cpus=1, gpus=1) == ("unknown GPU", None, 1)


def test_gpus_are_read_from_the_drivers_own_tool(monkeypatch, tmp_path: Path):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    for script, expected in (
        ("echo 'NVIDIA H100 80GB HBM3, 81559'", [("NVIDIA H100 80GB HBM3", 81559 * 2**20)]),
        ("echo 'No devices were found'; exit 6", []),
        ("echo 'NVIDIA GB10, [N/A]'", []),
    ):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert visible_gpus() == expected


def test_the_machines_memory_is_at_most_what_the_kernel_says():
    (total,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 2**28 < machine_memory() <= int(total.split()[1]) * 1024


def test_sizes_for_people():
    assert [readable(n) for n in (None, 5 * 2**20, 2**30 - 2**20, 3 * 2**29)] == [
        "unknown",
        "5 MiB",
        "1023 MiB",
        "1.50 GiB",
    ]
