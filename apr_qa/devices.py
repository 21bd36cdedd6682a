"""What this machine has: GPUs that answer, and the facts that an evidence file records about it.

No inference engine is imported: the CUDA driver is asked through its C interface, versions come from
package metadata.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import math
import os
import platform
from pathlib import Path

ENGINES = ("torch", "transformers", "tokenizers", "safetensors", "llama-cpp-python", "gguf", "numpy")
"""Packages whose version can change a result."""

_CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_NAME_BYTES = 256
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@functools.cache
def cuda_missing() -> str | None:
    """Return why no CUDA device can be used, or None if the driver reports at least one."""
    driver = _cuda_driver()
    if driver is None:
        return "no NVIDIA driver is installed"
    # Results other than 0 are CUresult errors: 100 is CUDA_ERROR_NO_DEVICE.
    result = driver.cuInit(0)
    if result != 0:
        return f"the NVIDIA driver does not start (cuInit returns {result})"
    count = ctypes.c_int(0)
    result = driver.cuDeviceGetCount(ctypes.byref(count))
    if result != 0 or count.value < 1:
        return "the NVIDIA driver reports no device"
    return None


def _cuda_driver() -> ctypes.CDLL | None:
    for name in _CUDA_LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@functools.cache
def gpu_name() -> str:
    """Return the name of the first CUDA device, or an empty string."""
    driver = _cuda_driver()
    if driver is None or cuda_missing() is not None:
        return ""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    failed = driver.cuDeviceGetName(name, _NAME_BYTES, 0)
    return "" if failed else name.value.decode("utf-8", "replace")


def usable_cores() -> int:
    """Return the number of cores that this process may use; a container may get only the time of some of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or the word "max"
        return cores


def describe_environment() -> dict[str, str]:
    """Return what a reader needs to know about the machine; what is not known is left out."""
    facts = {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": str(usable_cores()),
        "memory": _memory(),
        "gpu": gpu_name() or "none",
    }
    for package in ENGINES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {key: value for key, value in facts.items() if value}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{size / 2**30:.1f} GiB"
