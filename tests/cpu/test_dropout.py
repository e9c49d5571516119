"""A student trained without dropout: it computes as in evaluation, and what is saved does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import transformers
from distilfast import DistillationTrainer, create_student
from distilfast.cpu.dropout import remove_dropout
from small_families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")

RATES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_students_of_every_family_compute_as_in_evaluation(family: str, implementation: str) -> None:
    torch.manual_seed(0)
    config = type(FAMILIES[family]).from_dict(
        {key: 0.3 if key in RATES else value for key, value in FAMILIES[family].to_dict().items()}
    )
    model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=implementation).train()
    ids = torch.randint(5, 61, (4, 9))
    assert not torch.equal(model(ids).logits, model(ids).logits)
    before = model.config.to_dict()
    remove_dropout(model)
    torch.testing.assert_close(model(ids).logits, model.eval()(ids).logits, rtol=0, atol=0)
    assert model.config.to_dict() == before


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_run_without_dropout_is_that_of_a_student_that_has_none(tmp_path: Path, layout: str) -> None:
    def weights(name: str, rate: float, **changes: Any) -> dict[str, torch.Tensor]:
        teacher = tiny_training.teacher(rate)
        args = tiny_training.arguments(tmp_path / name, max_steps=3, **changes)
        assert args.batches_per_step is not None
        batches = tiny_training.TinyBatches(7, args.batches_per_step, layout)
        trainer = DistillationTrainer(
            create_student(teacher, 1), teacher, args, batches, callbacks=[tiny_training.Quiet()]
        )
        trainer.train()
        trainer.save_model(str(tmp_path / name / "saved"))
        return {key: value.clone() for key, value in trainer.student.state_dict().items()}

    without, none, some = (
        weights("without", 0.1, dropout=False),
        weights("none", 0.0),
        weights("some", 0.1),
    )
    for name, expected in none.items():
        torch.testing.assert_close(without[name], expected, rtol=0, atol=0)
    assert any(not torch.equal(some[name], without[name]) for name in some)
    saved = transformers.AutoConfig.from_pretrained(tmp_path / "without" / "saved")
    assert (saved.dropout, saved.attention_dropout) == (0.1, 0.1)
