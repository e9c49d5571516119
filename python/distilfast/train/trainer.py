"""`transformers.Trainer` around `DistillationStep`: exact under accumulation and ranks, and under interruption."""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from transformers.utils import logging as hf_logging

from .._core import InputError
from ..batches.loader import Batches, batch_loader
from ..heads.choice import choose_head
from ..heads.head import Head
from ..models.bf16 import ForgetCopies
from ..models.saved_tokenizer import save_tokenizer
from . import checkpoint
from .arguments import DistillationArguments
from .callbacks import BeforeFirstStep, Interruption, NonFiniteLossError, QuantizeLastSteps, SetEpoch
from .continuing import LENGTHS, follow_schedule, lengthened, steps_to_come
from .evaluating import EvaluatingTrainer
from .evaluation import choose_best_metric
from .handed import check_batches, check_evaluation, check_models, check_optimiser, refuse_ignored
from .layer_losses import BoundsOnHost
from .meter import Meter, add_states
from .progress import say_progress
from .step import DistillationStep, as_teachers

logger = logging.getLogger(__name__)

EXTRA_WEIGHTS = "step.safetensors"  # what the step learns beside the student, if anything

# What saving a configuration adds to it.
_OF_THE_FILE = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"})


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message says why and which earlier one is whole."""

    exit_code = 1  # of the command


class DistillationTrainer(EvaluatingTrainer):
    """Trains `student` to follow `teacher` on `train_dataset`, a `MaskedBatches` or a `LabelledBatches`.

    `student` keeps float32 weights; `teacher` (several: see `DistillationStep`; None: the loss against labels alone)
    is frozen and moved to the device in the dtype that is computed in, when training begins (`adapt_models`). `head`,
    a `Head` or the name of one, says what is compared (default: `args.head`, else masked_lm). `processing_class` is the
    tokenizer that is saved with the student. Checkpoints hold all that a resume needs to go on bit for bit (on a GPU
    with `full_determinism`, for there PyTorch adds in any order without it);
    `train(resume_from_checkpoint="last")` goes on from the latest that is whole.

    Raises `InputError` for models that do not fit each other or the losses, and for batches planned for another number
    of micro-batches a step; while training, `NonFiniteLossError` and `CheckpointError`.
    """

    def __init__(
        self,
        student: PreTrainedModel | None = None,
        teacher: PreTrainedModel | Sequence[PreTrainedModel] | None = None,
        args: DistillationArguments | None = None,
        train_dataset: Batches | None = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        teacher_weights: Sequence[float] | None = None,
        head: Head | str | None = None,
        **kwargs: Any,
    ) -> None:
        student = kwargs.pop("model", None) if student is None else student  # as Trainer calls it
        args = DistillationArguments("distilled") if args is None else args
        refuse_ignored(kwargs)
        check_batches(args, train_dataset)
        check_evaluation(args, kwargs.get("eval_dataset"))
        check_models(student, [teacher] if isinstance(teacher, str) else as_teachers(teacher))
        assert student is not None
        assert train_dataset is not None
        if args.n_gpu > 1:
            logger.warning("one process trains on one GPU; start one for each with torchrun --nproc-per-node")
            args._n_gpu = 1
        teachers = as_teachers(teacher)
        self.teacher_fingerprint = checkpoint.fingerprint(teachers)
        dtype = args.compute_dtype
        if not isinstance(head, Head):
            head = choose_head(teachers[0] if teachers else student, head or args.head or "masked_lm")
        args.check_head(head)
        if kwargs.get("compute_metrics") is not None and not head.takes_rows:
            raise InputError(f"compute_metrics gets no predictions from {head.name}: its logits are never held at once")
        choose_best_metric(args, head, kwargs.get("eval_dataset"))
        if args.early_stopping_patience is not None:
            callbacks = [EarlyStoppingCallback(args.early_stopping_patience), *(callbacks or [])]
        # FSDP shards the parameters themselves and casts what it gathers, under autocast.
        self.autocast_dtype = dtype if args.fsdp and dtype != student.dtype else None
        step = DistillationStep(
            student,
            teachers,
            args.objective,
            compute_dtype=dtype if (dtype != student.dtype or args.quantize) and not args.fsdp else None,
            teacher_weights=teacher_weights,
            head=head,
        )
        if step.copies is not None:
            step.copies.kept = True
            step.copies.adds_up = args.world_size == 1 and args.deepspeed is None
            callbacks = [ForgetCopies(step.copies), *(callbacks or [])]
        self.interruption = Interruption()
        check_optimiser(args, step)
        super().__init__(
            model=step,
            args=args,
            train_dataset=cast(Any, train_dataset),
            processing_class=processing_class,
            callbacks=[
                SetEpoch(train_dataset),
                self.interruption,
                BeforeFirstStep(self.make_up_for_evaluation),
                *([QuantizeLastSteps(step)] if args.quantize else []),
                *(callbacks or []),
            ],
            **kwargs,
        )
        say_progress(self, head.takes_rows)
        self.meter = Meter(args.device)
        self._metered_from = 0
        self._teachers_said = WeakKeyDictionary()
        self._save_total_limit = args.save_total_limit

    @property
    def student(self) -> PreTrainedModel:
        return self.step.student

    @property
    def interrupted(self) -> bool:
        """Whether SIGTERM or Ctrl-C ended the run; a checkpoint of that moment was written."""
        return self.interruption.requested

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        batches = cast(Batches, self.train_dataset)
        if self.step.relation_losses and getattr(batches, "layout", "padded") == "packed":
            batches = BoundsOnHost(batches)
        pin = self.args.dataloader_pin_memory and self.args.device.type == "cuda"
        loader = batch_loader(batches, self.args.world_size, pin)
        return cast("DataLoader[dict[str, Any]]", self.accelerator.prepare(loader))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The batch's share of the step's loss, and the parts of it."""
        autocast = nullcontext()
        if self.autocast_dtype is not None:
            autocast = torch.autocast(self.args.device.type, self.autocast_dtype)  # type: ignore[assignment]
        with autocast:
            losses = model(inputs)
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch.

        Written out, because `Trainer` divides by the number of micro-batches or does not, depending on its version; the
        denominators of the whole step are in the batch already.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        loss, losses = cast("tuple[Tensor, dict[str, Tensor]]", self.compute_loss(model, inputs, return_outputs=True))
        # Data-parallel training averages gradients over the ranks; shares of a step add up.
        scaled: Tensor = loss * self.args.world_size
        kwargs = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        self.accelerator.backward(scaled, **kwargs)
        self.meter.add(losses, inputs)
        self.interruption.watch(losses)
        return scaled.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each loss's mean since the last line, tokens per second and the share of padding."""
        if "loss" in logs:
            logs |= self.meter.read(self.state.global_step - self._metered_from)
            self.meter.reset()
            self._metered_from = self.state.global_step
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains to the end, to a SIGTERM or to a loss that is not finite.

        `resume_from_checkpoint`: a checkpoint folder, or "last" for the latest in the output directory; one that has
        all `max_steps` behind it is loaded, and no step taken. Raises `InputError` where there is none that is whole,
        or it is of another run, naming what differs.
        """
        if resume_from_checkpoint:
            chosen = self._choose_checkpoint(resume_from_checkpoint)
            state = TrainerState.load_from_json(str(chosen / TRAINER_STATE_NAME))
            if 0 < self.args.max_steps <= state.global_step:
                # Trainer would take one more step before it looked.
                self._load_from_checkpoint(str(chosen))
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
            resume_from_checkpoint = str(chosen)
        self.adapt_models()
        self.meter.begin()
        # With a limit of 1 Trainer would remove the checkpoint of an interruption in favour of the best.
        self._save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        with self.interruption:
            try:
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
                self.interruption.check_losses()
            except NonFiniteLossError as error:
                raise NonFiniteLossError(
                    f"{error} (epoch {self.state.epoch or 0:.2f}); {self._last_whole()}. Lower --learning_rate, or "
                    "compute with --precision fp32, and resume"
                ) from None
            finally:
                self.args.save_total_limit = self._save_total_limit
        if self._save_total_limit == 1 and self.args.should_save and not self.interrupted:
            checkpoint.keep_best(self._get_output_dir(None), self.state.best_model_checkpoint)
        return output

    def _choose_checkpoint(self, wanted: str | bool) -> Path:
        chosen, notes = checkpoint.find_checkpoint(wanted, self._get_output_dir(None))
        for note in notes:
            logger.warning("%s", note)
        checkpoint.compare_run(chosen, self.describe_run(), LENGTHS)
        state = TrainerState.load_from_json(str(chosen / TRAINER_STATE_NAME))
        longer = lengthened(self.args, state, steps_to_come(self.args, len(cast(Batches, self.train_dataset))))
        if longer is not None:
            logger.warning("%s %s", chosen.parent, longer)
        progress = checkpoint.read_seal(chosen)["progress"]
        meters = progress["meters"]
        rank = self.args.process_index
        if len(meters) == self.args.world_size:
            self.meter.load_state(meters[rank])
        elif rank == 0:
            self.meter.load_state(add_states(meters))
        self._metered_from = progress["metered_from"]
        return chosen

    def describe_run(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        batches = cast(Batches, self.train_dataset)
        config = {name: value for name, value in self.student.config.to_dict().items() if name not in _OF_THE_FILE}
        return {
            **checkpoint.describe_arguments(self.args),
            "computing dtype": str(self.args.compute_dtype),
            "data (fingerprint of tokens and batches)": batches.state_fingerprint,
            "teacher (checksum of weights)": self.teacher_fingerprint,
            **{name: value.tolist() for name, value in self.step.head.named_buffers()},
            "student (checksum of configuration)": f"{zlib.crc32(repr(sorted(config.items())).encode()):08x}",
        }

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A checkpoint that is sealed when it is whole; older ones go only then."""
        self.interruption.check_losses()
        self._check_weights()
        run_dir = Path(self._get_output_dir(trial=trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # torn, or it would be this one
        self._wait_for_all()
        try:
            super()._save_checkpoint(model, trial)
            meters = self._gather(self.meter.state())
            self._wait_for_all()
            if self.args.should_save:
                progress = {"meters": meters, "metered_from": self._metered_from}
                checkpoint.seal(folder, self.describe_run(), progress)
        except Exception as error:
            # Libraries report a full disk each in its own way, some without the word.
            free = shutil.disk_usage(run_dir).free
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise CheckpointError(
                f"{folder} could not be written, with {free / 1e6:,.0f} MB left on that disk: {type(error).__name__}: "
                f"{error}. {self._last_whole()}"
            ) from error
        if self.args.should_save:
            checkpoint.remove_old(run_dir, self._save_total_limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The student as plain `transformers` loads it, the tokenizer, and what else the step learned."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._get_output_dir(None))
        folder.mkdir(parents=True, exist_ok=True)
        state = self.step.state_dict() if state_dict is None else state_dict
        of_student = {
            name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")
        }
        showing = hf_logging.is_progress_bar_enabled()
        hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.student.save_pretrained(folder, state_dict=of_student)
        finally:
            if showing:
                hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        extra = {name: value.contiguous() for name, value in state.items() if not name.startswith("student.")}
        if extra:
            safetensors.torch.save_file(extra, folder / EXTRA_WEIGHTS)
        if self.processing_class is not None:
            save_tokenizer(self.processing_class, self.student, folder)
        self.step.head.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        safetensors.torch.load_model(self.student, folder / "model.safetensors")
        if (folder / EXTRA_WEIGHTS).is_file():
            extra = safetensors.torch.load_file(folder / EXTRA_WEIGHTS)
            cast(nn.Module, self.model).load_state_dict(extra, strict=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            follow_schedule(self.optimizer, self.lr_scheduler)

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        logger.info("loading %s, the best by %s: %s", best, self.args.metric_for_best_model, self.state.best_metric)
        self._load_from_checkpoint(best, self.model)

    def _check_weights(self) -> None:
        """A gradient can overflow where the loss did not; weights that are not finite must not be saved."""
        finite = torch.stack([torch.isfinite(parameter).all() for parameter in self.student.parameters()]).all()
        if not bool(finite):
            raise NonFiniteLossError(f"the weights are not finite after optimiser step {self.state.global_step}")

    def _last_whole(self) -> str:
        for folder in checkpoint.checkpoints(self._get_output_dir(None)):
            if checkpoint.tear(folder) is None:
                return f"the last whole checkpoint is {folder}"
        return "there is no checkpoint yet"

    def _gather(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        """`value` of every rank, in order of rank."""
        if self.args.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.args.world_size
        dist.all_gather_object(values, value)
        return cast("list[dict[str, Any]]", values)

    def _wait_for_all(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()
