"""`python -m distilfast.bench losses`: value and gradient of the losses against eager PyTorch, torch.compile, Liger and
TRL.

All contenders take the same inputs in one process, in turn. The floor is measured there too: one addition that reads
two matrices of logits and writes a third, which is what a loss cannot do without. On the CPU it is measured twice, into
memory that is there already and into new memory, whose pages the operating system must first provide. A contender that
fails (for want of memory, say) is reported with its error, and the JSON file is written anew after every case.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import losses
from .._command import flag, parse, require_positive
from .._core import InputError
from .._files import write_text
from ..metrics.markdown import table
from ..metrics.speed import device_name
from . import rivals
from .measure import restart_peak, said_errors, status_bytes
from .results import ResultFile

Step = Callable[[], object]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEMPERATURE = 2.0
FLOOR = "floor: read two, write one"
QUEUED_CYCLES = 10_000_000  # of a GPU that sleeps while the host launches a step: about 5 ms


@dataclass
class LossesBenchArguments(ResultFile):
    """Flags of `bench losses`."""

    device: str = flag("auto", "'cuda', 'cpu', or 'auto'")
    rows: list[int] = flag([0], "numbers of rows; 0: by device")
    vocabularies: list[int] = flag([0], "vocabulary sizes; 0: by device")
    dtype: str = flag("auto", "float32, bfloat16, float16; auto: bfloat16 on CUDA")
    hidden: int = flag(768, "hidden size of the linear and the hidden-state losses")
    labelled: float = flag(0.15, "share of rows with a label")
    compile: bool = flag(True, "time torch.compile too")
    linear: bool = flag(True, "time the linear and the hidden-state losses too")
    runs: int = flag(0, "runs of each, in turn; the median counts; 0: by device")
    threads: int = flag(0, "CPU threads; 0: torch's own number")
    markdown: str = flag("", "a file to write the figures to, as Markdown tables")


def eager_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """5 KL + 2 cross-entropy as usually written."""
    log_p = F.log_softmax(student.float() / TEMPERATURE, dim=-1)
    q = F.softmax(teacher.float() / TEMPERATURE, dim=-1)
    kl = F.kl_div(log_p, q, reduction="batchmean") * TEMPERATURE**2
    return 5.0 * kl + 2.0 * F.cross_entropy(student.float(), labels)


def logits_steps(student: Tensor, teacher: Tensor, labels: Tensor, with_compile: bool) -> dict[str, Step]:
    """Name -> value and gradient with respect to the student's logits."""
    out = torch.empty_like(student)

    def stepping(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
        leaf = student.detach().requires_grad_()
        return lambda: torch.autograd.grad(loss(leaf, teacher, labels), leaf)

    steps: dict[str, Step] = {FLOOR: lambda: torch.add(student, teacher, out=out)}
    if not student.is_cuda:
        steps["floor, into new memory"] = lambda: torch.add(student, teacher)
    steps |= {
        "distilfast": stepping(lambda s, t, y: losses.distillation_loss(s, t, y, TEMPERATURE).total),
        "eager": stepping(eager_loss),
    }
    if with_compile:
        torch.compiler.reset()  # past its limit of recompilations a case would silently run eagerly
        steps["torch.compile"] = stepping(torch.compile(eager_loss, dynamic=False))
    return steps | rivals.logits_steps(student, teacher, labels, TEMPERATURE)


def linear_steps(rows: int, vocabulary: int, hidden: int, labels: Tensor, dtype: torch.dtype) -> dict[str, Step]:
    """From hidden states: value and gradients of hidden states, weight and bias."""
    device = labels.device
    x, y = (torch.randn(rows, hidden, device=device).to(dtype) for _ in range(2))
    weight, teacher_weight = (0.05 * torch.randn(vocabulary, hidden, device=device).to(dtype) for _ in range(2))
    bias = torch.zeros(vocabulary, device=device, dtype=dtype)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]

    def ours() -> object:
        s, w, b = leaves
        loss = losses.linear_distillation_loss(s, w, b, y, teacher_weight, bias, labels, TEMPERATURE)
        return torch.autograd.grad(loss.total, leaves)

    def eager() -> object:
        with torch.no_grad():
            teacher = F.linear(y, teacher_weight, bias)
        return torch.autograd.grad(eager_loss(F.linear(*leaves), teacher, labels), leaves)

    steps: dict[str, Step] = {"distilfast": ours, "eager": eager}
    return steps | rivals.linear_steps(leaves, (y, teacher_weight, bias), labels, TEMPERATURE)


def hidden_steps(name: str, rows: int, hidden: int, device: torch.device, dtype: torch.dtype) -> dict[str, Step]:
    """Of the loss of hidden states `name`, "cosine" or "mse"."""
    leaf = torch.randn(rows, hidden, device=device).to(dtype).requires_grad_()
    teacher = torch.randn(rows, hidden, device=device).to(dtype)
    student, out, target = leaf.detach(), torch.empty_like(teacher), torch.ones(rows, device=device)
    ours = losses.hidden_cosine if name == "cosine" else losses.hidden_mse

    def eager() -> Tensor:
        return F.cosine_embedding_loss(leaf, teacher, target) if name == "cosine" else F.mse_loss(leaf, teacher)

    return {
        FLOOR: lambda: torch.add(student, teacher, out=out),
        "distilfast": lambda: torch.autograd.grad(ours(leaf, teacher), leaf),
        "eager": lambda: torch.autograd.grad(eager(), leaf),
    }


def measure(steps: dict[str, Step], device: torch.device, runs: int) -> dict[str, dict[str, Any]]:
    """Of each step milliseconds (median, least, most) and the bytes it allocates at most, its result among them; or its
    error."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    results: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for name, step in steps.items():
        with said_errors(results[name], device):
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                step()
                results[name]["peak_bytes"] = float(torch.cuda.max_memory_allocated() - before)
            elif (peak := _peak_bytes(step)) is not None:
                results[name]["peak_bytes"] = float(peak)
    for _ in range(runs):
        for name, step in steps.items():
            if "error" not in results[name]:
                with said_errors(results[name], device):
                    times[name].append(_milliseconds(step, device))
    running = [name for name in steps if "error" not in results[name]]
    for name in running:
        taken = times[name]
        results[name] |= {"median_ms": statistics.median(taken), "least_ms": min(taken), "most_ms": max(taken)}
    if "median_ms" in (floor := results.get(FLOOR, {})):
        for name in running:
            results[name]["share_of_floor_speed"] = floor["median_ms"] / results[name]["median_ms"]
    return results


def _peak_bytes(step: Step) -> int | None:
    """How far the memory of the process rises during a step; None where the operating system does not tell."""
    held = [step(), step()]  # so that the memory which is kept from call to call, of two gradients, is in use
    if (before := restart_peak()) is None:
        return None
    step()
    peak = status_bytes("VmHWM")
    del held
    return max(0, peak - before)


def _milliseconds(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        # The GPU waits in the queue while the host prepares the step, or the host's time would be measured.
        sleep: Any = torch.cuda._sleep
        sleep(QUEUED_CYCLES)
        start.record()
        step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))
    begin = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - begin)


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """The figures of a case as a Markdown table; `of floor`: how many times as long it took."""
    ours = results["distilfast"].get("median_ms", float("nan"))
    floor = results.get(FLOOR, {}).get("median_ms")
    rows = []
    for name, figures in results.items():
        if "error" in figures:
            rows.append([name, figures["error"], *[""] * 4])
            continue
        median, spread = figures["median_ms"], f"{figures['least_ms']:.3f}-{figures['most_ms']:.3f}"
        of_floor = "" if floor is None else f"{median / floor:.2f}x"
        peak = f"{figures['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in figures else ""
        rows.append([name, f"{median:.3f}", spread, f"{median / ours:.2f}x", of_floor, peak])
    return table(["", "median ms", "spread ms", "ours is", "of floor", "peak MB"], rows)


def show(title: str, results: dict[str, dict[str, Any]]) -> str:
    """Prints the figures of a case, and returns them as a section of Markdown."""
    section = f"### {title}\n\n{as_table(results)}\n"
    print(f"\n{section}", end="", flush=True)
    return section


def bench(arguments: LossesBenchArguments) -> dict[str, Any]:
    """All figures of one run of the command."""
    require_positive(arguments, "hidden")
    arguments.refuse_lost_files(arguments.markdown)
    if not 0 <= arguments.labelled <= 1:
        raise InputError(f"--labelled {arguments.labelled:g} is no share of the rows; give one from 0 to 1")
    if arguments.device not in ("auto", "cuda", "cpu"):
        raise InputError(f"--device {arguments.device!r} is none of 'auto', 'cuda', 'cpu'")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if arguments.device == "auto" else arguments.device)
    on_gpu = device.type == "cuda"
    if on_gpu and found == "cpu":
        raise InputError("--device cuda: torch sees no CUDA device; leave it out to time the CPU")
    name = ("bfloat16" if on_gpu else "float32") if arguments.dtype == "auto" else arguments.dtype
    if name not in DTYPES:
        raise InputError(f"--dtype {arguments.dtype!r} is none of {', '.join(DTYPES)}, auto")
    if arguments.threads > 0:
        torch.set_num_threads(arguments.threads)
    dtype = DTYPES[name]
    runs = arguments.runs or (50 if on_gpu else 9)
    all_rows = [n for n in arguments.rows if n > 0] or ([1024, 4096, 16384] if on_gpu else [64, 1024])
    vocabularies = [v for v in arguments.vocabularies if v > 0] or ([30522, 50265, 128256] if on_gpu else [30522])
    report: dict[str, Any] = {
        "arguments": asdict(arguments),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rivals": rivals.versions(),
        "dtype": name,
        "cases": [],
    }
    sections = [f"{report['device']}, torch {torch.__version__}, {name}, median of value and gradient:\n"]
    for vocabulary in vocabularies:
        for rows in all_rows:
            torch.manual_seed(0)
            teacher = 2.5 * torch.randn(rows, vocabulary, device=device)
            student = (teacher + 0.3 * torch.randn(rows, vocabulary, device=device)).to(dtype)
            teacher = teacher.to(dtype)
            labels = torch.randint(0, vocabulary, (rows,), device=device)
            labels[torch.rand(rows, device=device) >= arguments.labelled] = -100
            labels[0] = 0
            results = measure(logits_steps(student, teacher, labels, arguments.compile), device, runs)
            del student, teacher
            sections.append(show(f"logits, {rows:,} x {vocabulary:,}, {name}", results))
            case: dict[str, Any] = {"rows": rows, "vocabulary": vocabulary, "logits": results}
            if arguments.linear:
                case["linear"] = measure(linear_steps(rows, vocabulary, arguments.hidden, labels, dtype), device, runs)
                title = f"linear, {rows:,} x {arguments.hidden} x {vocabulary:,}, {name}"
                sections.append(show(title, case["linear"]))
                for loss in ("cosine", "mse"):
                    case[loss] = measure(hidden_steps(loss, rows, arguments.hidden, device, dtype), device, runs)
                    sections.append(show(f"{loss}, {rows:,} x {arguments.hidden}, {name}", case[loss]))
            report["cases"].append(case)
            arguments.write(report)
            if arguments.markdown:
                write_text(arguments.markdown, "\n".join(sections))
    return report


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([LossesBenchArguments], argv)
    bench(arguments)
