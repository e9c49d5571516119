"""What makes models faster on CPUs: attention's backward pass, dropout masks, bfloat16 products. `use` puts it in.

This folder and `rust/cpu` can be deleted whole: without `use` a model computes what it computed before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def use(student: PreTrainedModel, *others: nn.Module) -> None:
    """Makes models compute with the CPU kernels of this folder where these serve, in place.

    `student`, which is trained, gets the attention, the dropout and the matrix products; `others`, such as its
    teachers, which are run without a gradient, the products alone. Parameters, their names, configurations as saved
    and, up to rounding, results stay; on other devices, in other formats and while a graph is captured all of them
    compute as before. A second call changes nothing.
    """
    from .attention import use_cpu_attention  # transformers takes a second to import, which the losses do not need
    from .dropout import use_cpu_dropout
    from .matmul import use_cpu_products

    use_cpu_attention(student)
    use_cpu_dropout(student)
    for model in (student, *others):
        use_cpu_products(model)
