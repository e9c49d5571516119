"""Size and speed of models: parameters, bytes on disk, latency at batch 1 and throughput at batch 32, with spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._core import InputError
from ..models.families import evaluating, longest_row

# Where the middle half of the times spreads over more than this share of the median, they are taken again, once.
WIDE = 0.15
# Processes that wait for each core, above which the machine is called busy.
BUSY = 0.5


@dataclass(frozen=True)
class Size:
    """embeddings, layers, head: parameters, which add up to `parameters`; tied weights counted once, in the embeddings.

    encoder_parameters: embeddings and layers. bytes: of the weight files.
    """

    embeddings: int
    layers: int
    head: int
    parameters: int
    encoder_parameters: int
    bytes: int


@dataclass(frozen=True)
class Speed:
    """The encoder's forward on one device.

    latency_ms: median of one sequence of `length` tokens, in milliseconds; latency_iqr_ms: the distance of its
    quartiles; throughput: sequences a second at batch 32, of the median; throughput_spread: the distance of the
    quartiles of its times as a share of their median. repeats: how many forwards the latency is of; taken_again:
    whether the first times were too far apart; load: processes that ran or waited on the machine before, a core.
    """

    device: str
    length: int
    latency_ms: float
    latency_iqr_ms: float
    throughput: float
    throughput_spread: float
    repeats: int
    taken_again: bool
    load: float | None

    @property
    def spread(self) -> float:
        """The larger spread of the two, as a share of the median."""
        return max(self.latency_iqr_ms / self.latency_ms, self.throughput_spread)


def measure_size(model: Any, directory: str | Path | None = None) -> Size:
    """The size of `model`; bytes are those of the weight files in `directory` where it holds some, else what
    saving the weights would take (each shared tensor once)."""
    files = [*Path(directory).glob("*.safetensors")] if directory is not None and Path(directory).is_dir() else []
    on_disk = sum(file.stat().st_size for file in files)
    # `named_parameters()` yields a tied weight once.
    inside = dict(model.base_model.named_parameters())
    own = {id(parameter) for parameter in inside.values()}
    embeddings = sum(parameter.numel() for name, parameter in inside.items() if "embed" in name)
    encoder = sum(parameter.numel() for parameter in inside.values())
    head = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in own)
    in_memory = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Size(
        embeddings=embeddings,
        layers=encoder - embeddings,
        head=head,
        parameters=encoder + head,
        encoder_parameters=encoder,
        bytes=on_disk or in_memory,
    )


def machine_load() -> float | None:
    """Processes that ran or waited over the last minute, a core; None where the system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return None


def hardware(device: str | torch.device = "cpu") -> str:
    """A line that names the device and how much of it is used."""
    name = device_name(device)
    if torch.device(device).type == "cuda":
        return name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def device_name(device: str | torch.device = "cpu") -> str:
    """The name of the GPU or of the CPU; the CPU's architecture where the system tells no name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
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
        most = longest_row(model)
        if length < 1 or (most is not None and length > most):
            raise InputError(f"length {length} is out of range for {name}, which has {most} positions")
    load = machine_load()
    singles, again = _times(models, device, 1, length, repeats)
    batches, batches_again = _times(models, device, batch_size, length, max(3, repeats // 10))
    found = {}
    for name in models:
        latency, latency_iqr = _median_and_iqr(singles[name])
        batch, batch_iqr = _median_and_iqr(batches[name])
        found[name] = Speed(
            device,
            length,
            latency_ms=1000 * latency,
            latency_iqr_ms=1000 * latency_iqr,
            throughput=batch_size / batch,
            throughput_spread=batch_iqr / batch,
            repeats=len(singles[name]),
            taken_again=again or batches_again,
            load=load,
        )
    return found


def speed_warnings(speeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the speeds of one device (`Speed` as a dictionary, by model): a wide spread, a busy
    machine."""
    found = []
    wide = {
        name: spread
        for name, speed in speeds.items()
        if (spread := max(speed["latency_iqr_ms"] / speed["latency_ms"], speed["throughput_spread"])) > WIDE
    }
    if wide:
        worst = max(wide, key=lambda name: wide[name])
        found.append(
            f"times spread by {100 * wide[worst]:.0f} % of their median ({worst}), taken twice: do not trust ratios "
            "to the last digit; measure again on a quiet machine"
        )
    loads = [speed["load"] for speed in speeds.values() if speed["load"] is not None]
    if loads and max(loads) > BUSY:
        found.append(
            f"the machine was busy before measuring ({max(loads):.1f} processes a core): times are longer than alone"
        )
    return found


def _median_and_iqr(seconds: Sequence[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], 0.0
    first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return median, third - first


def _times(
    models: Mapping[str, Any], device: str, batch_size: int, length: int, repeats: int
) -> tuple[dict[str, list[float]], bool]:
    """Seconds of each forward by model; True where they were taken again because they lay far apart, with twice as
    many forwards."""
    first = _seconds_in_turns(models, device, batch_size, length, repeats)
    if max(iqr / median for median, iqr in map(_median_and_iqr, first.values())) <= WIDE:
        return first, False
    second = _seconds_in_turns(models, device, batch_size, length, 2 * repeats)
    return second, True


def _seconds_in_turns(
    models: Mapping[str, Any], device: str, batch_size: int, length: int, repeats: int
) -> dict[str, list[float]]:
    """Models take turns, which `torch.utils.benchmark` cannot do: a machine that slows down slows all of them."""
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in models}
    on = torch.device(device)
    with evaluating(*models.values(), device=on), torch.inference_mode():
        for repeat in range(-2, repeats):  # the first two are warm-up
            for name, model in models.items():
                shape = (batch_size, length)
                ids = torch.randint(0, model.config.vocab_size, shape, generator=generator).to(on)
                seconds = _seconds(model.base_model, ids, torch.ones_like(ids), on)
                if repeat >= 0:
                    times[name].append(seconds)
    return times


def _seconds(encoder: Any, ids: torch.Tensor, mask: torch.Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    encoder(input_ids=ids, attention_mask=mask)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
