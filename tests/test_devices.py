"""What the machine has is asked of it, not assumed."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from apr_qa import devices


class Driver:
    """A CUDA driver that answers with what a test wants to see handled."""

    def __init__(self, started: int, counted: int, devices: int) -> None:
        self.started, self.counted, self.devices = started, counted, devices

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the name in the driver
        return self.started

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - the name in the driver
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices
        return self.counted


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver"),
        (Driver(100, 0, 0), "cuInit returns 100"),
        (Driver(0, 3, 1), "no device"),
        (Driver(0, 0, 0), "no device"),
        (Driver(0, 0, 2), None),
    ],
)
def test_a_gpu_counts_only_if_the_driver_reports_one(
    driver: Driver | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cuda_driver", lambda: driver)
    devices.cuda_missing.cache_clear()
    try:
        found = devices.cuda_missing()
        assert found is None if reason is None else reason in str(found)
    finally:
        devices.cuda_missing.cache_clear()


def test_the_environment_names_the_machine_and_the_versions_that_matter() -> None:
    facts = devices.describe_environment()
    assert {"os", "python", "cpu", "cores", "memory", "gpu", "numpy"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
    assert int(facts["cores"]) == devices.usable_cores() >= 1
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_describing_the_environment_imports_no_engine() -> None:
    program = (
        "import sys; from apr_qa import devices; devices.describe_environment()\n"
        "assert not {'torch', 'transformers', 'llama_cpp', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
