from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from srcyc import device
from srcyc.device import precision_name, resolve_device, resolve_precision
from srcyc.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_without_a_gpu_is_the_cpu(no_gpu):
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_refused(no_gpu, name):
    with pytest.raises(ConfigError, match=f"{name}.*0 CUDA devices"):
        resolve_device(name)


def test_gpus_are_found_by_number(two_gpus):
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ConfigError, match="use auto, cpu, cuda"):
        resolve_device(name)


@pytest.mark.parametrize("bf16", [True, False])
def test_precision_follows_the_cpu(monkeypatch, bf16):
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: bf16)

    assert resolve_precision("auto", CPU) == (torch.bfloat16 if bf16 else torch.float32)
    assert resolve_precision("fp32", CPU) == torch.float32
    with pytest.raises(ConfigError, match="'fp16': cpu has no instructions"):
        resolve_precision("fp16", CPU)
    if not bf16:
        with pytest.raises(ConfigError, match=r"'bf16'.*auto or fp32"):
            resolve_precision("bf16", CPU)


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_unknown_precisions_are_refused():
    with pytest.raises(ConfigError, match="use auto, fp32, bf16, fp16"):
        resolve_precision("double", CPU)


def test_names_go_both_ways():
    assert precision_name(resolve_precision("fp32", CPU)) == "fp32"


def test_a_pytorch_told_to_do_without_avx512_does_without_bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert device._cpu_has_bf16()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not device._cpu_has_bf16()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage knows no better")
def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    code = "from srcyc.device import peak_memory; print(peak_memory())"
    large = np.ones(100_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < large.nbytes
