"""Size and speed of models: parameters, bytes on disk, latency at batch 1 and throughput at batch 32."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._core import InputError


@dataclass(frozen=True)
class Size:
    """encoder_parameters: without the task head; parameters: with it; tied weights counted once. bytes: on disk."""

    encoder_parameters: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Speed:
    """The encoder's forward on one device.

    latency_ms: median of one sequence of `length` tokens, in milliseconds; throughput: sequences a second at batch 32.
    """

    device: str
    length: int
    latency_ms: float
    throughput: float


def measure_size(model: Any, directory: str | Path | None = None) -> Size:
    """The size of `model`; bytes are those of the weight files in `directory` where it holds some, else what
    saving the weights would take (each shared tensor once)."""
    files = [*Path(directory).glob("*.safetensors")] if directory is not None and Path(directory).is_dir() else []
    on_disk = sum(file.stat().st_size for file in files)
    # `parameters()` yields a tied weight once.
    in_memory = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Size(
        encoder_parameters=sum(parameter.numel() for parameter in model.base_model.parameters()),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=on_disk or in_memory,
    )


def hardware(device: str | torch.device = "cpu") -> str:
    """A line that names the device and how much of it is used."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def measure_speed(
    models: Mapping[str, Any], device: str = "cpu", length: int = 128, repeats: int = 30, batch_size: int = 32
) -> dict[str, Speed]:
    """The speed of each model's encoder on sequences of `length` tokens without padding.

    Models take turns within one run, so that a machine that slows down slows all of them. Raises `InputError` for a
    length that a model has no positions for and for fewer than 1 repeat.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; measuring takes at least 1")
    for name, model in models.items():
        most = getattr(model.config, "max_position_embeddings", length)
        if not 1 <= length <= most:
            raise InputError(f"length {length} is out of range for {name}, which has {most} positions")
    singles = _median_seconds(models, device, 1, length, repeats)
    batches = _median_seconds(models, device, batch_size, length, max(3, repeats // 10))
    return {
        name: Speed(device, length, latency_ms=1000 * singles[name], throughput=batch_size / batches[name])
        for name in models
    }


def _median_seconds(
    models: Mapping[str, Any], device: str, batch_size: int, length: int, repeats: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in models}
    modes = {name: model.training for name, model in models.items()}
    homes = {name: model.device for name, model in models.items()}
    on = torch.device(device)
    try:
        with torch.inference_mode():
            encoders = {name: model.eval().to(on).base_model for name, model in models.items()}
            for repeat in range(-2, repeats):  # the first two are warm-up
                for name, encoder in encoders.items():
                    shape = (batch_size, length)
                    ids = torch.randint(0, models[name].config.vocab_size, shape, generator=generator).to(on)
                    mask = torch.ones_like(ids)
                    seconds = _seconds(encoder, ids, mask, on)
                    if repeat >= 0:
                        times[name].append(seconds)
    finally:
        for name, model in models.items():
            model.train(modes[name]).to(homes[name])
    return {name: statistics.median(taken) for name, taken in times.items()}


def _seconds(encoder: Any, ids: torch.Tensor, mask: torch.Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    encoder(input_ids=ids, attention_mask=mask)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
