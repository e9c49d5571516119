"""What the kernels compile to, without a GPU: registers, spills and accesses of each shipped configuration.

    python tests/kernels/inspect_sass.py            # a Markdown table for compute capability 9.0
    python tests/kernels/inspect_sass.py 80

Needs torch and triton; disassembles with the tools that come with Triton.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Loop:
    """A loop of the compiled kernel: instructions, and how many of each kind of memory access and exponential."""

    instructions: int
    kinds: Counter[str]

    @property
    def streams(self) -> bool:
        """Whether this is a main loop: it reads memory and takes exponentials, and does not wait for other threads."""
        names = " ".join(self.kinds)
        return "LDG" in names and "MUFU.EX2" in names and "BAR" not in names


@dataclass(frozen=True)
class Compiled:
    registers: int
    spills: int
    memory: Counter[str]  # global accesses of the whole kernel, but for those of 4 bytes (row values)
    loops: list[Loop]
    kinds: list[str]  # of all instructions, in the order of their addresses

    @property
    def accesses(self) -> Counter[str]:
        """Global loads and stores of the main loops by kind."""
        return sum((loop.kinds for loop in self.loops if loop.streams), Counter[str]())


def fused_package() -> ModuleType:
    """The Triton package of this checkout, not an installed one."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "kernels"))
    return importlib.import_module("fused")


def compile_distillation(
    package: ModuleType,
    columns: int,
    student: torch.dtype = torch.bfloat16,
    teacher: torch.dtype = torch.bfloat16,
    *,
    headed: bool = True,
    temperature: float = 2.0,
    squared_error: bool = False,
    kl: bool = True,
    store: bool = True,
    capability: int = 90,
) -> tuple[Compiled, int]:
    """K1 as its launcher would have it compiled, and the elements a thread takes in one step of a loop."""
    kernel = importlib.import_module(f"{package.__name__}.distillation_kernel").distillation_kernel
    launch = importlib.import_module(f"{package.__name__}.launch")
    configuration = launch.row_configuration(columns, headed)
    empty = [torch.empty(0, dtype=dtype) for dtype in (student, teacher, student)]
    constants: dict[str, Any] = {
        "V": columns,
        "BLOCK": configuration.block,
        "FULL": configuration.full_blocks,
        "TAIL": configuration.tail,
        "LANES": configuration.lanes(*empty),
        "HEADED": headed,
        "POWER": launch.temperature_power(temperature),
        "MSE": squared_error,
        "KL_GRADIENT": kl,
        "PRECISE": student == torch.float32,
        "STORE": store,
        "TEACHER_ALIGNED": True,
        "GRADIENT_ALIGNED": True,
    }
    signature = dict.fromkeys(kernel.arg_names, "fp32")
    signature |= {"student": "*" + TYPES[student], "teacher": "*" + TYPES[teacher], "gradient": "*" + TYPES[student]}
    signature |= dict.fromkeys(("weights", "kl_scale", "mlm_scale", "kl_out", "ce_out", "mse_out"), "*fp32")
    integers = ("student_stride", "teacher_stride", "gradient_stride", "phase", "ignore_index", "full_blocks")
    signature |= {"labels": "*i64", **dict.fromkeys(integers, "i32"), **dict.fromkeys(constants, "constexpr")}
    aligned = ["student", "teacher", "gradient"]
    if not headed:
        aligned += ["student_stride", "teacher_stride", "gradient_stride"]
    options = {
        "num_warps": configuration.num_warps,
        "maxnreg": launch.registers(student, teacher, squared_error),
        "enable_fp_fusion": False,
    }
    return _compile(kernel, signature, constants, aligned, options, capability), configuration.block // (
        32 * configuration.num_warps
    )


def compile_hidden(
    package: ModuleType,
    width: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    layers: int = 1,
    cosine: bool = True,
    capability: int = 90,
) -> Compiled:
    """K3 as its launcher would have it compiled, for rows whose stride is their width."""
    hidden = importlib.import_module(f"{package.__name__}.hidden")
    rows, size, warps = hidden.tile(width)
    kernel = hidden.hidden_kernel
    constants = {
        "COUNT": layers,
        "H": width,
        "ROWS": rows,
        "SIZE": size,
        "BLOCKS": -(-width // size),
        "COSINE": cosine,
        "STORE": True,
        "UNIT": 8 if width % 8 == 0 else 1,
    }
    signature: dict[str, Any] = dict.fromkeys(kernel.arg_names, "i32")
    signature |= dict.fromkeys(("students", "teachers"), ("*" + TYPES[dtype],) * layers)
    signature |= dict.fromkeys(("student_strides", "teacher_strides"), ("i32",) * layers)
    signature |= {"gradients": "*" + TYPES[dtype], **dict.fromkeys(("weights", "scale", "values_out"), "*fp32")}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = ["students", "teachers", "gradients", "weights", "values_out"]
    return _compile(kernel, signature, constants, aligned, {"num_warps": warps}, capability)


def _compile(
    kernel: Any,
    signature: dict[str, Any],
    constants: dict[str, Any],
    aligned: list[str],
    options: dict[str, Any],
    capability: int,
) -> Compiled:
    signature = {name: signature[name] for name in kernel.arg_names}
    attributes = {}
    for name in aligned:
        at, kind = kernel.arg_names.index(name), signature[name]
        for path in [(at, k) for k in range(len(kind))] if isinstance(kind, tuple) else [(at,)]:
            attributes[path] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        assembly, usage = (_cuobjdump(option, file.name) for option in ("-sass", "-res-usage"))
    found = re.search(r"REG:(\d+)", usage)
    assert found is not None, usage
    instructions = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", assembly)]
    spills = sum("LDL" in text or "STL" in text for _, text in instructions)
    order = [re.sub(r"^@!?U?P\w+ ", "", text).split()[0] for _, text in instructions]
    kinds = Counter(order)
    memory = Counter(
        {kind: count for kind, count in kinds.items() if re.match(r"(LDG|STG)\b.*(U8|U16|S16|64|128)$", kind)}
    )
    return Compiled(int(found[1]), spills, memory, _loops(instructions), order)


def _cuobjdump(option: str, name: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([tool, option, name], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _loops(instructions: list[tuple[int, str]]) -> list[Loop]:
    """The innermost spans that end in a branch backwards."""
    spans = []
    for at, text in instructions:
        target = re.search(r"BRA\b.*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < at:
            spans.append((int(target[1], 16), at))
    inner = [
        (start, end)
        for start, end in spans
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in spans)
    ]
    loops = []
    for start, end in inner:
        body = [re.sub(r"^@!?U?P\w+ ", "", text).split()[0] for at, text in instructions if start <= at <= end]
        loops.append(
            Loop(
                len(body),
                Counter(kind for kind in body if kind.startswith(("LDG", "STG", "LDL", "STL", "BAR", "MUFU.EX2"))),
            )
        )
    return loops


def main() -> None:
    capability = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    package = fused_package()
    bf16, fp32, fp16 = torch.bfloat16, torch.float32, torch.float16
    cases: list[tuple[str, dict[str, Any]]] = [
        ("30,522, bfloat16", {"columns": 30522}),
        ("30,522, float16, padded (K2, 16-bit heads)", {"columns": 30522, "headed": False, **both(fp16)}),
        ("30,522, float32, padded (K2, float32 heads)", {"columns": 30522, "headed": False, **both(fp32)}),
        (
            "30,522, float16, mixed teachers in float32, padded",
            {"columns": 30522, "headed": False, "student": fp16, "teacher": fp32},
        ),
        ("128,256, bfloat16", {"columns": 128256, "headed": False, **both(bf16)}),
    ]
    print(
        "| vocabulary | registers | spills | instructions an element: row sums, gradient | accesses in the main loops |"
    )
    print("|---|---|---|---|---|")
    for name, arguments in cases:
        compiled, each = compile_distillation(package, **arguments, capability=capability)
        counts = [loop.instructions / each for loop in compiled.loops if loop.streams]
        # Row sums and gradient, of rows without a label and of those with one, in either order.
        plain, labelled = (
            f"{a:.1f} + {b:.1f}" for a, b in sorted(zip(counts[::2], counts[1::2], strict=True), key=sum)
        )
        show(name, compiled, f"{plain} (labelled rows {labelled})", compiled.accesses)


def both(dtype: torch.dtype) -> dict[str, torch.dtype]:
    return {"student": dtype, "teacher": dtype}


def show(name: str, compiled: Compiled, instructions: str, memory: Counter[str]) -> None:
    """A row of the table."""
    kinds = ", ".join(sorted(kind for kind in memory if kind.startswith(("LDG", "STG"))))
    print(f"| {name} | {compiled.registers} | {compiled.spills} | {instructions} | {kinds} |", flush=True)


if __name__ == "__main__":
    main()
