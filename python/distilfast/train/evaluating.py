"""A `Trainer` that evaluates and predicts with the measures of a head, on batches of the kind that it trains on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput

from .. import cpu
from .._core import InputError
from ..models.adaptation import adapt
from ..models.families import evaluating
from .arguments import DistillationArguments
from .callbacks import Interruption
from .continuing import evaluation_due
from .evaluation import HeldOutBatches, evaluate, measured, predict
from .hub import PublicTrainer
from .meter import Meter
from .step import DistillationStep


class EvaluationStoppedError(Exception):
    """A signal asked for the end of the run within an evaluation."""


class EvaluatingTrainer(PublicTrainer):
    """`evaluate` and `predict` in the place of Trainer's, which hold all logits at once and know one loss."""

    args: DistillationArguments
    meter: Meter
    interruption: Interruption
    _may_stop = False
    """Whether an evaluation may end before its time."""
    _teachers_said: WeakKeyDictionary[Any, Any]
    """What the teachers said of held-out batches."""

    @property
    def step(self) -> DistillationStep:
        """The module that is trained, without what Accelerate wraps it in."""
        return cast(DistillationStep, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    def adapt_models(self) -> None:
        """Makes the models ready to be trained and compared, in place; twice is once. `train` begins with it.

        Raises `InputError` for models that cannot run as the batches or the flags ask.
        """
        step, args = self.step, self.args
        adapt(
            step.student,
            step.teachers,
            layout=getattr(self.train_dataset, "layout", "padded"),
            dropout=args.dropout,
            # int8 is a matter of the range of all that a layer reads.
            stops_early=step.head.stops_early(step.objective) and args.quantize is None,
            trains_head=step.head.reads_student(step.objective),
            device=args.device,
            dtype=args.compute_dtype,
        )
        cpu.use(step.student, *step.teachers)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The head's metrics of the student on `eval_dataset`, or on that of the constructor, each behind the prefix.

        Batches of the kind that is trained on, or a dictionary of such by name, each with its name behind the prefix
        ("" has none). Each is logged, all together are handed to callbacks; draws no random number. Raises `InputError`
        for no batches.
        """
        chosen: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if chosen is None:
            raise InputError("there is nothing to evaluate on: give the trainer an eval_dataset")
        self.adapt_models()
        metrics: dict[str, float] = {}
        for name, held_out in chosen.items() if isinstance(chosen, dict) else [("", chosen)]:
            metrics |= self._evaluate_one(held_out, f"{metric_key_prefix}_{name}" if name else metric_key_prefix)
        # Once: early stopping would not find its metric among those of another set.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_one(self, held_out: HeldOutBatches, prefix: str) -> dict[str, float]:
        started = time.perf_counter()
        said = self._teachers_said
        values = evaluate(self.step, held_out, self.args.device, self.compute_metrics, said, self._stop_evaluating)
        metrics = {f"{prefix}_{name}": value for name, value in values.items()}
        seconds = time.perf_counter() - started
        metrics[f"{prefix}_runtime"] = seconds
        self.meter.started += seconds  # which counts tokens trained on
        self.log(metrics)
        return metrics

    def _stop_evaluating(self) -> None:
        # Every rank goes through all held-out batches, and so asks as often.
        if self._may_stop and self.interruption.asked_on_any_rank():
            raise EvaluationStoppedError

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As `Trainer`; a signal ends an evaluation, and the checkpoint is saved at once."""
        self._may_stop = True
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except EvaluationStoppedError:
            control = self.control
            control.should_log = control.should_evaluate = False
            control.should_save = control.should_training_stop = True
            super()._maybe_log_save_evaluate(*args, **kwargs)
        finally:
            self._may_stop = False

    def make_up_for_evaluation(self) -> None:
        """Evaluates where the checkpoint that the run goes on from was written before an evaluation that was due."""
        sets = len(self.eval_dataset) if isinstance(self.eval_dataset, dict) else 1
        if not evaluation_due(self.args, self.state, len(cast(Any, self.train_dataset)), sets):
            return
        metrics = self._evaluate(None, None)
        folder = Path(self._get_output_dir(None)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self._determine_best_metric(metrics, None) and folder.is_dir():
            self.state.best_model_checkpoint = str(folder)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """`predictions` and `label_ids` as `compute_metrics` gets them (`Head.eval_prediction`), in the order of the
        data, and the metrics, each behind the prefix.

        Raises `InputError` for a head whose predictions are never held at once.
        """
        if not self.step.head.takes_rows:
            raise InputError(f"predict gives no predictions of {self.step.head.name}: they are never held at once")
        self.adapt_models()
        with evaluating(self.step.student), torch.inference_mode():
            said = predict(self.step, cast(HeldOutBatches, test_dataset), self.args.device)
        metrics = measured(self.step.head, said, self.compute_metrics)
        given = self.step.head.eval_prediction(said)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(given.predictions, given.label_ids, metrics)
