"""What a run takes where nothing is said: a row for each head, and the published run by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core import InputError

# Heads that learn from labelled rows.
_ROWS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 32,
    "max_length": 256,
    "alpha_ce": 1.0,
    "alpha_mlm": 0.0,
    "alpha_task": 1.0,
    "alpha_cos": 1.0,
}

# Over the defaults of `DistillationArguments`, which are masked_lm's: those of the published run.
HEADS: dict[str, dict[str, Any]] = {
    "masked_lm": {},
    "classification": _ROWS,
    "tokens": _ROWS,
    "questions": {**_ROWS, "num_train_epochs": 3, "max_length": 384},
    "hidden_states": {"min_length": 0, "alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_task": 0.0},
    "embedding": {
        "learning_rate": 2e-4,
        "num_train_epochs": 1,
        "batch_tokens": 2048,
        "max_length": None,  # the teacher's
        "dropout": False,
        "alpha_ce": 0.0,
        "alpha_mlm": 0.0,
        "alpha_task": 0.0,
        "alpha_embedding": 1.0,
        "alpha_cos": 1.0,
        "alpha_hidden": 1.0,
    },
}

# Without a teacher: the loss against labels, or of masked words, alone.
WITHOUT_TEACHER: dict[str, Any] = {"alpha_ce": 0.0, "alpha_cos": 0.0}
PRETRAINING: dict[str, Any] = {**WITHOUT_TEACHER, "alpha_mlm": 1.0}

# The published run (Sanh et al. 2019 and the command in its repository), spelled out so that no change of a default
# changes it. 256k tokens a step are about the 2,000 sequences of the published command.
RECIPES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "alpha_ce": 5.0,
        "alpha_mlm": 2.0,
        "alpha_cos": 1.0,
        "alpha_mse": 0.0,
        "temperature": 2.0,
        "kl_positions": "all",
        "mlm_mask_prop": 0.15,
        "word_mask": 0.8,
        "word_keep": 0.1,
        "word_rand": 0.1,
        "mlm_smoothing": 0.7,
        "max_length": 512,
        "batch_tokens": 16384,
        "batches_per_step": 16,
        "num_train_epochs": 3,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
        "weight_decay": 0.0,
        "max_grad_norm": 5.0,
        "seed": 56,
    }
}


def recipe(name: str) -> dict[str, Any]:
    """The arguments of a published run by name. Raises `InputError` for a name that is not one."""
    if name not in RECIPES:
        raise InputError(f"--recipe {name}: there is no such recipe; there is {', '.join(RECIPES)}")
    return dict(RECIPES[name])


def defaults_of(head: str, has_teacher: bool, recipe_name: str | None = None) -> dict[str, Any]:
    """{field: value} of what is taken for a head where nothing is said: the recipe's, over the head's."""
    chosen = dict(HEADS[head]) | (recipe(recipe_name) if recipe_name is not None else {})
    if has_teacher:
        return chosen
    return chosen | (PRETRAINING if head == "masked_lm" else WITHOUT_TEACHER)


def evaluation_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} of when to evaluate and save, where there is something to evaluate on and nothing is said: each
    epoch; and to keep the best model, a checkpoint at each evaluation."""
    chosen: dict[str, Any] = {"eval_strategy": "epoch"}
    if values.get("load_best_model_at_end"):
        chosen["save_strategy"] = values.get("eval_strategy", "epoch")
        if "eval_steps" in values:
            chosen["save_steps"] = values["eval_steps"]
    return chosen
