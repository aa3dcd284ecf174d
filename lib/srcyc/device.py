"""Where and in which precision the network runs: what was asked for, or an error; never something else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch

from srcyc.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device; ``auto`` prefers a GPU.

    Raises:
        ConfigError: an unknown name, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (bool(colon) and not number.isdecimal())):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:N.", options=("device",))
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ConfigError(
                f"device {name!r}: this machine offers {count} CUDA devices to PyTorch",
                remedy="use another or cpu",
                options=("device",),
            )
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn ``auto``, ``fp32``, ``bf16`` or ``fp16`` into a type; ``auto`` is the fastest the device is built for.

    Raises:
        ConfigError: an unknown name, or a type that the device has no instructions for.
    """
    fast = _fast_types(device)
    if name == "auto":
        return fast[0]
    if name not in _TYPES:
        raise ConfigError(f"precision {name!r}: use auto, {', '.join(_TYPES)}.", options=("precision",))
    dtype = _TYPES[name]
    if dtype not in fast:
        raise ConfigError(
            f"precision {name!r}: {device} has no instructions for it",
            remedy=f"use auto or {' or '.join(_NAMES[known] for known in fast)}",
            options=("precision",),
        )
    return dtype


def precision_name(dtype: torch.dtype) -> str:
    """Give the name that :func:`resolve_precision` takes."""
    return _NAMES[dtype]


def peak_memory() -> int | None:
    """Greatest resident memory of this process so far, bytes; None where the system does not tell."""
    if sys.platform == "linux":
        # getrusage would count what the process held that started this one, as large as Slicer may be.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def _fast_types(device: torch.device) -> list[torch.dtype]:
    """Types with instructions of their own, best first. fp32 is always among them."""
    if device.type == "cuda":
        # Hardware, not emulation: before Ampere bf16 is converted to fp32 for every operation.
        bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return [*([torch.bfloat16] if bf16 else []), torch.float16, torch.float32]
    return [*([torch.bfloat16] if _cpu_has_bf16() else []), torch.float32]


def _cpu_has_bf16() -> bool:
    """Whether an x86 CPU multiplies bf16 itself (AVX512-BF16 or AMX)."""
    # PyTorch may have been told to do without these instructions (ATEN_CPU_CAPABILITY), and emulates them then.
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    # oneDNN also *accepts* bf16 on plain AVX-512, where it is slower than fp32.
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    # PyTorch before 2.10 has no public way to ask.
    return bool(torch.cpu._is_avx512_bf16_supported())
