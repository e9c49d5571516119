"""`cpu.use`: the one call that changes models for the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny_training
import torch
from distilfast import cpu
from distilfast.cpu.attention import CPU_ATTENTION
from distilfast.cpu.dropout import CPUDropout
from distilfast.cpu.matmul import CPULinear
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def kinds(model: nn.Module, base: type[nn.Module]) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if isinstance(module, base)}


def test_the_student_gets_everything_and_a_teacher_the_products() -> None:
    teacher = tiny_training.teacher()
    student = tiny_training.create_student(teacher, 1)
    for _ in range(2):
        cpu.use(student, teacher)
        assert student.config._attn_implementation == CPU_ATTENTION
        assert teacher.config._attn_implementation == "sdpa"
        assert kinds(student, nn.Dropout) == {CPUDropout}
        assert kinds(teacher, nn.Dropout) == {nn.Dropout}
        assert kinds(student, nn.Linear) == kinds(teacher, nn.Linear) == {CPULinear}


def test_results_gradients_names_and_what_is_saved_stay() -> None:
    teacher = tiny_training.teacher(dropout=0.0)
    plain, used = (tiny_training.create_student(teacher, 1) for _ in range(2))
    used.load_state_dict(plain.state_dict())
    saved = used.config.to_json_string()
    cpu.use(used)
    assert used.config.to_json_string() == saved
    assert list(used.state_dict()) == list(plain.state_dict())
    ids = torch.randint(5, tiny_training.VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [7]])
    results = []
    for model in (plain, used):
        logits = model.train()(input_ids=ids, attention_mask=mask.long()).logits[mask]
        logits.square().mean().backward()
        results.append((logits.detach(), {name: each.grad for name, each in model.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-5)


def test_another_attention_that_was_chosen_stays() -> None:
    student = tiny_training.create_student(tiny_training.teacher(), 1)
    student.set_attn_implementation("eager")
    cpu.use(student)
    assert student.config._attn_implementation == "eager"


def test_the_losses_do_not_wait_for_transformers() -> None:
    program = "import sys, distilfast.losses; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
