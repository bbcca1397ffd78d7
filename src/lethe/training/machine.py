"""The machine under a stage: made deterministic, checked for what the recipe asks, and described."""

import ctypes
import os
import platform
import resource
import sys

import torch

from lethe.config import UserError
from lethe.training.stage import Recipe
from lethe.worker import Worker

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def prepare(worker: Worker, recipe: Recipe) -> torch.device:
    """Make this process ready for a stage; a warm one may have trained another before. Returns the device.

    Raises UserError where bf16 would be emulated.
    """
    device = torch.device(worker.device)
    check_precision(recipe.precision, device)
    torch.set_num_threads(worker.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if recipe.compile:  # the steps of stages before it must not count against this one's recompilations
        torch.compiler.reset()
    keep_large_buffers()
    return device


def keep_large_buffers() -> None:
    """Let glibc keep what is freed: logits of 100 MB and more are else mapped, zeroed and unmapped at every step."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
            libc.mallopt(parameter, value)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 where it would be emulated: 20 times slower, and no one would know why."""
    if precision == "fp32":
        return
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not able:
        raise UserError(f"stage.precision: found 'bf16'; allowed on this {device.type}: fp32 (it has no bf16 units)")


def processor(device: torch.device) -> str:
    """What results are bit-identical on: the GPU's name, or the CPU's kind and vector units."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def peak_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU by this process, or resident by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
