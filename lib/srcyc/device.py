"""Where and in which arithmetic networks run; what was asked for is done or refused, never replaced silently."""

from __future__ import annotations

import re
from typing import Literal

import torch

from srcyc.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_device(name: str) -> torch.device:
    """Give the device for ``auto`` (CUDA if there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: another name, or a CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:N.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (
        torch.cuda.device_count() if torch.cuda.is_available() else 0
    ):
        raise ConfigError(f"device {name!r} is not available here; use cpu, or auto to take what there is.")
    return device


def supports_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions are native: a CPU with bf16 instructions, or a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Give the arithmetic for ``auto`` (bf16 where it is native, else fp32) or what was asked for.

    Raises:
        ConfigError: the device cannot do it.
    """
    if name == "auto":
        return torch.bfloat16 if supports_bf16(device) else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use auto, fp32 or bf16 on a CPU.")
    if name == "bf16" and not supports_bf16(device):
        raise ConfigError(f"precision bf16 is not native on {device}; use auto or fp32.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
