"""Our products of bfloat16 matrices beside torch's on this CPU: python docs/study/products.py [THREADS]

For linear layers from `inputs` to `outputs` numbers and so many tokens: milliseconds of the forward product, of the
gradient of the states and of that of the weight, by our kernel and by torch, the lower third of 15 runs each; the last
column is a forward product of a weight that lies by columns, as a teacher's do. Prints a table in Markdown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from distilfast import _core
from distilfast.cpu import matmul
from torch import Tensor

LAYERS = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))


def milliseconds(product: Callable[[], object]) -> str:
    times = []
    for _ in range(15):
        start = time.perf_counter()
        product()
        times.append(1000 * (time.perf_counter() - start))
    return f"{sorted(times)[5]:.2f}"


def both(left: Tensor, right: Tensor) -> str:
    return f"{milliseconds(lambda: matmul.multiply(left, right))}, {milliseconds(lambda: torch.mm(left, right))}"


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    assert _core.has_matrix_instructions(), "this processor has no matrix instructions"
    matmul.MOST_TERMS = 0  # by our kernel whatever the shape
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; ours, torch's\n")
    print("| tokens | inputs | outputs | forward | states | weight | torch's forward, by columns |\n|" + "---|" * 7)
    for tokens in (300, 1024, 2048, 4096):
        for inputs, outputs in LAYERS:
            states, gradients, weight = (
                torch.randn(*shape, dtype=torch.bfloat16)
                for shape in ((tokens, inputs), (tokens, outputs), (outputs, inputs))
            )
            by_columns = weight.t().contiguous()
            cells = (
                both(states, weight.t()),
                both(gradients, weight),
                both(gradients.t(), states),
                milliseconds(lambda states=states, by_columns=by_columns: torch.mm(states, by_columns)),  # type: ignore[misc]
            )
            print("|", " | ".join([f"{tokens:,}", str(inputs), str(outputs), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
