"""What can be chosen about a training run: its text, its losses, its optimiser.

The last is `transformers.TrainingArguments` with other defaults. Names of losses and masking are those of the original
DistilBERT script.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.integrations import integration_utils

from .._command import fitted, flag
from .._core import InputError
from .._files import first_line
from ..heads.head import Head
from ..heads.objective import Objective
from ..models.bf16 import bf16_is_fast
from .layer_losses import parse_layer_map

logger = logging.getLogger(__name__)

Precision = Literal["auto", "bf16", "fp32"]

ALPHAS = (
    *("alpha_ce", "alpha_mlm", "alpha_task", "alpha_cos", "alpha_mse", "alpha_hidden", "alpha_rel"),
    *("alpha_embedding", "alpha_similarity", "alpha_margin_mse", "alpha_listnet"),
)

RECORDING_MODES = ("reduce-overhead", "max-autotune")  # modes of torch.compile that record CUDA graphs

# Flags of TrainingArguments that would do nothing here, or harm.
UNSUPPORTED = {
    "batch_eval_metrics": "metrics are of all held-out rows together",
    "activation_checkpointing": "it would recompute with other weights than it computed with; lower --batch_tokens",
    "activation_checkpointing_kwargs": "activations are not computed again",
    "auto_find_batch_size": "the batches are planned beforehand; lower --batch_tokens",
    "enable_jit_checkpoint": "SIGTERM saves a whole checkpoint on every rank as it is",
    "bf16_full_eval": "evaluation computes as training does; use --precision bf16",
    "dataloader_drop_last": "an epoch has every row once",
    "eval_accumulation_steps": "evaluation keeps what metrics are made of, and leaves it on no device",
    "eval_use_gather_object": "ranks hand each other the same tensors",
    "fp16": "its range needs loss scaling; use --precision bf16",
    "fp16_full_eval": "evaluation computes as training does; use --precision bf16",
    "gradient_checkpointing": "it would recompute with other weights than it computed with; lower --batch_tokens",
    "gradient_checkpointing_kwargs": "activations are not computed again",
    "include_for_metrics": "compute_metrics gets predictions and labels",
    "label_names": "the head knows what its labels are called",
    "label_smoothing_factor": "the teacher's distribution takes its place",
    "length_column_name": "lengths are those of the token ids",
    "neftune_noise_alpha": "it would make teacher and student see different inputs",
    "prediction_loss_only": "evaluation measures what the head has metrics for",
    "save_only_model": "a run could not go on from such checkpoints; --save_total_limit 1 keeps one",
    "train_sampling_strategy": "rows of like length go together wherever their labels allow it",
    "use_liger_kernel": "the losses have kernels of their own; see --loss_impl",
}


@dataclass
class DataArguments:
    """Which text, and how it becomes batches."""

    _argument_group_name = "data"

    text: list[str] | None = flag(
        None,
        "Text: files (.txt, .jsonl, .parquet; also packed), patterns, folders. Prepared in --output_dir first; for a "
        "data set give --tokens, what `python -m distilfast.prepare --dataset` wrote.",
    )
    text_weights: list[float] | None = flag(
        None,
        "A weight for each of several --text: its share of an epoch's tokens. Texts too short for theirs are repeated.",
    )
    validation_text: list[str] | None = flag(
        None, "Held-out text files, scored while training (--eval_strategy; default with them: epoch)."
    )
    guard_text: list[str] | None = flag(
        None,
        "Text of another kind that must not be forgotten: how near student and teacher are on it is said at the start "
        "and at the end, and in each evaluation (eval_guard_kl).",
    )
    sts_file: str | None = flag(None, "Pairs of sentences and people's scores, for sentence encoders; likewise.")
    retrieval_dir: str | None = flag(None, "corpus.jsonl, queries.jsonl, qrels/, for sentence encoders; likewise.")
    tokens: str | None = flag(None, "What `python -m distilfast.prepare` wrote, instead of --text.")
    tokenizer: str | None = flag(
        None, "vocab.txt, tokenizer.json, or a directory with one. Default: the teacher's, or that of --tokens."
    )
    max_length: int = flag(512, "Longest sequence in tokens, by default 512, for rows 256, for questions 384.")
    min_length: int = flag(
        12, "Texts of fewer tokens are left out and counted, by default 12 for masked_lm, 0 elsewhere."
    )
    batch_tokens: int = flag(16384, "Tokens in a micro-batch, padding included.")
    layout: Literal["auto", "padded", "packed"] = flag(
        "auto", "Rows of equal width, or sequences end to end; auto: end to end on CUDA, where the models can run so."
    )
    mlm_mask_prop: float = flag(0.15, "Share of the tokens that are to be predicted.")
    word_mask: float = flag(0.8, "Share of those that become [MASK].")
    word_keep: float = flag(0.1, "Share of those that stay.")
    word_rand: float = flag(0.1, "Share of those that become a random token.")
    mlm_smoothing: float = flag(0.0, "Masks rare tokens more often: weight count^-smoothing. 0.7 in the published run.")
    whole_word_mask: bool = flag(False, "Mask all pieces of a word together.")
    mask_count: Literal["exact", "bernoulli"] = flag(
        "exact", "The same number of masked tokens in every batch of a shape, or an independent draw for each token."
    )
    masking_compat: Literal["none", "distilbert"] = flag(
        "none", "'distilbert' draws random tokens from the whole vocabulary, special tokens included, as the original."
    )
    loader_threads: int | None = flag(None, "Threads that read the tokens at the start. Default: as many as torch has.")


@dataclass
class DistillationArguments(TrainingArguments):
    """`transformers.TrainingArguments`, the losses, and the defaults of the published run.

    Raises `InputError` for values that cannot be trained with.
    """

    _argument_group_name = "losses and training (the flags of transformers.TrainingArguments follow)"

    learning_rate: float = flag(5e-4, "Peak learning rate, by default 5e-4, for rows 5e-5.")
    num_train_epochs: float = flag(3.0, "Epochs. Default: 3, for classifiers and taggers 4.")
    per_device_train_batch_size: int = flag(32, "Rows of a batch on each rank.")
    warmup_steps: float = flag(0.05, "Steps of linear warm-up; below 1, the share of all steps.")
    adam_beta2: float = flag(0.98, "Decay rate of Adam's second moments.")
    adam_epsilon: float = flag(1e-6, "Adam's epsilon.")
    max_grad_norm: float = flag(5.0, "Gradients are clipped to this norm; 0 for no clipping.")
    logging_steps: float = flag(50, "Steps between two lines of the log.")
    save_total_limit: int | None = flag(2, "Checkpoints that are kept; older ones are deleted.")
    # In the order that HfArgumentParser can read.
    report_to: None | str | list[str] = flag(  # noqa: RUF036
        None, "Where logs go besides the screen; 'none' for nowhere. Default: tensorboard where it is installed."
    )
    logging_nan_inf_filter: bool = flag(False, "Off: a loss that is not finite stops the run (see the docs).")
    ddp_find_unused_parameters: bool | None = flag(False, "Off: every parameter of the student has a gradient.")
    remove_unused_columns: bool = flag(False, "Off: batches are used whole.")

    head: str | None = flag(
        None,
        "What the models say: masked_lm, classification, tokens, questions, hidden_states or embedding. Default: what "
        "the teacher does.",
    )
    alpha_ce: float = flag(5.0, "Weight of the KL to the teacher's tempered distribution, by default 5, for rows 1.")
    alpha_mlm: float = flag(2.0, "Weight of the masked-language-model loss.")
    alpha_task: float = flag(1.0, "Weight of the loss against labels, for heads other than masked_lm.")
    alpha_cos: float = flag(1.0, "Weight of the cosine loss between last hidden states.")
    alpha_mse: float = flag(0.0, "Weight of the squared distance between logits.")
    temperature: float = flag(2.0, "Temperature of both softmaxes in the KL.")
    kl_positions: Literal["all", "masked", "sampled"] = flag(
        "all", "Tokens at which KL and MSE are taken; sampled: the masked ones and --kl_sample_share of all."
    )
    kl_sample_share: float = flag(0.15, "Tokens beside the masked ones that 'sampled' takes, as a share of all.")
    cos_positions: Literal["all", "kl"] = flag(
        "all", "Tokens at which the cosine is taken; 'kl': those of the KL, which lets the last layer stop there."
    )
    alpha_hidden: float = flag(0.0, "Weight of the loss between intermediate layers.")
    hidden_map: str | None = flag(
        None, "Pairs student:teacher of layers, counted from 1, as in 1:2,2:4. Default: spread evenly."
    )
    hidden_kind: Literal["cosine", "mse"] = flag("cosine", "How intermediate layers are compared.")
    alpha_rel: float = flag(0.0, "Weight of the loss between self-attention relations (MiniLMv2).")
    relation_heads: int | None = flag(None, "Relation heads. Default: the teacher's attention heads.")
    relation_layers: list[int] | None = flag(
        None, "Layer of the student and of the teacher, from 1, whose relations are compared. Default: the last."
    )
    alpha_embedding: float = flag(0.0, "Weight of the distance between vectors of texts (cosine and squared).")
    alpha_similarity: float = flag(0.0, "Weight of the KL between the similarities of the texts of a batch.")
    similarity_temperature: float = flag(0.05, "Temperature of the softmax of these similarities.")
    alpha_margin_mse: float = flag(0.0, "Weight of the squared distance of margins within a group (rerankers).")
    alpha_listnet: float = flag(0.0, "Weight of the KL of the scores of a group at --temperature (rerankers).")
    dimensions: list[int] | None = flag(
        None, "Also compare the first so many numbers of the vectors (Matryoshka), as in 256 128 64."
    )
    restrict_ce_to_mask: bool = flag(False, "The original script's name for --kl_positions masked.")
    loss_impl: Literal["auto", "fused", "eager"] = flag("auto", "Implementation of the losses.")
    dropout: bool = flag(
        True, "Dropout in the student, as its configuration says; without it, the saved configuration keeps it still."
    )
    quantize: Literal["int8"] | None = flag(
        None, "The last steps train the student for int8: they compute what the file of `export --int8` will."
    )
    quantize_last: float = flag(0.3, "The share of the steps that do.")
    precision: Precision = flag(
        "auto", "bf16 computes in bfloat16 and keeps float32 weights; auto takes it where the hardware is fast at it."
    )
    batches_per_step: int | None = flag(
        None,
        "Micro-batches of an optimiser step over all ranks together; sets gradient_accumulation_steps for whatever "
        "number of ranks divides it.",
    )
    early_stopping_patience: int | None = flag(
        None, "Stop once so many evaluations in a row were no better than the best; see --metric_for_best_model."
    )
    recipe: str | None = flag(None, "'distilbert': the published run's settings; other flags win over them.")
    dry_run: bool = flag(False, "Say what would be trained, and on what; then stop, with nothing written.")
    overwrite: bool = flag(False, "Replace what --output_dir holds.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise InputError("--output_dir is needed: the directory that the student and its checkpoints go to")
        for name, value in fitted(type(self), {each.name: getattr(self, each.name) for each in fields(self)}).items():
            setattr(self, name, value)
        if self.bf16:
            # Trainer's own bf16 is autocast, which keeps activations between layers and all outputs in float32.
            self.bf16, self.precision = False, "bf16"
        for name, reason in UNSUPPORTED.items():
            if (getattr(self, name, None) or None) != (getattr(TrainingArguments, name, None) or None):
                raise InputError(f"--{name} is not supported: {reason}")
        if self.restrict_ce_to_mask:
            self.kl_positions = "masked"
        self._check_numbers()
        if self.relation_layers is not None and len(self.relation_layers) != 2:
            raise InputError("--relation_layers takes two numbers: a layer of the student and one of the teacher")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise InputError(f"--early_stopping_patience {self.early_stopping_patience}: must be at least 1")
        for name in ("early_stopping_patience", "load_best_model_at_end"):
            if getattr(self, name) and self.eval_strategy == "no":
                raise InputError(
                    f"--{name} needs evaluations: give --validation_text or rows, and --eval_strategy epoch or steps"
                )
        # TrainingArguments would say "loss"; the head knows better, and whether more of it is better.
        metric, self._greater_is_better = self.metric_for_best_model, self.greater_is_better
        self._batches_per_step_given = self.batches_per_step
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and not torch.cuda.is_available():
            # Else Accelerate, which looks for GPUs, would let each process train by itself.
            self.use_cpu = True
        if self.report_to is None:
            self.report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
            if self.report_to == "none":
                logger.info("logs go to the screen alone: tensorboard is not installed")
        if self.accelerator_config is None and self.dataloader_pin_memory and not self.use_cpu:
            # Else the copy of each tensor of a batch would wait for the GPU. A CPU alone pins nothing, and is warned.
            self.accelerator_config = {"non_blocking": True}
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except (ValueError, ImportError) as error:
            raise InputError(first_line(error)) from None
        for name in self.report_to or []:
            available = getattr(integration_utils, f"is_{name}_available", None)
            if available is not None and not available():
                raise InputError(f"--report_to {name}: {name} is not installed; install it, or give --report_to none")
        self.metric_for_best_model, self.greater_is_better = metric, self._greater_is_better
        if self.world_size != launched:
            raise InputError(
                f"{launched} processes were launched, but they make {self.world_size} rank"
                f"{'s' * (self.world_size > 1)} on {self.device.type}: each would train by itself; see to it that "
                "each has a GPU, or give --use_cpu"
            )
        self._check_compiling()
        if self.torch_compile_backend == "cudagraphs" or self.torch_compile_mode in RECORDING_MODES:
            asked = self.torch_compile_mode or self.torch_compile_backend
            raise InputError(
                f"--torch_compile with {asked!r} records CUDA graphs, which no run here has been measured with; use "
                "the mode default or max-autotune-no-cudagraphs"
            )
        if self.batches_per_step is not None:
            if self.batches_per_step < 1 or self.batches_per_step % self.world_size:
                raise InputError(
                    f"--batches_per_step {self.batches_per_step}: {self.world_size} ranks cannot share a step of that "
                    "many micro-batches equally; choose a multiple of the number of ranks"
                )
            self.gradient_accumulation_steps = self.batches_per_step // self.world_size
        self.batches_per_step = self.gradient_accumulation_steps * self.world_size
        if self.fsdp and (self.device.type == "cpu" or self.world_size == 1):
            raise InputError(
                f"--fsdp with {self.world_size} rank{'s' * (self.world_size > 1)} on {self.device.type}: Accelerate "
                "shards a model between several GPUs alone, and would leave it whole here without a word; leave --fsdp "
                "out, and several ranks train data-parallel"
            )

    def _check_compiling(self) -> None:
        """Refuses what `torch.compile` would refuse when training begins."""
        if self.torch_compile_mode is not None:
            modes = ["default", *torch._inductor.list_mode_options()]
            if self.torch_compile_mode not in modes:
                raise InputError(f"--torch_compile_mode {self.torch_compile_mode!r} is none of {', '.join(modes)}")
        if self.torch_compile_backend is not None:
            backends = torch._dynamo.list_backends(exclude_tags=())
            if self.torch_compile_backend not in backends:
                raise InputError(
                    f"--torch_compile_backend {self.torch_compile_backend!r} is none of {', '.join(backends)}"
                )

    def _check_numbers(self) -> None:
        """Refuses numbers that would end in NaN, or in a run other than the one asked for, hours later."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{each.name} {value}: must be finite")
        sizes = [f"per_device_{part}_batch_size" for part in ("train", "eval")]
        for name in ("temperature", "learning_rate", "similarity_temperature", *sizes):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name} {getattr(self, name):g}: must be greater than 0")
        for name in (*ALPHAS, "weight_decay", "max_grad_norm", "warmup_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name):g}: must not be below 0")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name):g}: must be at least 0 and below 1")
        if not 0 < self.kl_sample_share <= 1:
            raise InputError(f"--kl_sample_share {self.kl_sample_share:g}: must be above 0 and at most 1")
        if self.save_steps <= 0:
            raise InputError(f"--save_steps {self.save_steps:g}: must be above 0; --save_strategy no saves nothing")
        self._check_quantize()
        if not any(getattr(self, name) for name in ALPHAS):
            raise InputError("every alpha is 0, so there is nothing to learn; give at least one loss a weight")
        if self.max_steps == 0 or self.max_steps < -1 or (self.max_steps == -1 and self.num_train_epochs <= 0):
            asked = f"--max_steps {self.max_steps}, --num_train_epochs {self.num_train_epochs:g}"
            raise InputError(f"{asked}: there would be no step to take; give one of them a number above 0")

    def _check_quantize(self) -> None:
        if self.quantize is None:
            if self.quantize_last != type(self).quantize_last:
                raise InputError(f"--quantize_last {self.quantize_last:g} does nothing without --quantize int8")
            return
        if self.quantize != "int8":
            raise InputError(f"--quantize {self.quantize}: only int8 is known")
        if not 0 < self.quantize_last <= 1:
            raise InputError(f"--quantize_last {self.quantize_last:g}: must be above 0 and at most 1")
        reasons = {
            "fsdp": "an int8 weight has the range of a whole row, and FSDP shares rows out",
            "deepspeed": "int8 copies are made of whole weights, which DeepSpeed takes apart",
            "torch_compile": "the steps before the last stretch compute something else than those in it",
            "early_stopping_patience": "the run could stop before its last stretch",
        }
        for name, reason in reasons.items():
            if getattr(self, name):
                raise InputError(f"--quantize int8 and --{name} do not go together: {reason}; leave one of them out")

    def check_head(self, head: Head) -> None:
        """Refuses, with `InputError`, flags that are another head's and would do nothing."""
        default = {each.name: each.default for each in fields(self)}
        if head.takes_rows:
            foreign = {
                "batches_per_step": "use --gradient_accumulation_steps",
                "alpha_mlm": "use --alpha_task",
                "kl_positions": "its rows have no masked tokens",
                "cos_positions": "its rows have no masked tokens",
            }
        else:
            foreign = {"per_device_train_batch_size": "a batch has a number of tokens; use --batch_tokens"}
            if head.hard_alpha != "alpha_task":
                foreign["alpha_task"] = f"it is for labels; use --{head.hard_alpha or 'alpha_cos'}"
        if head.name != "embedding":
            for name in ("alpha_embedding", "alpha_similarity", "dimensions"):
                foreign[name] = "it compares vectors of texts; use --head embedding"
        for name in {"alpha_margin_mse", "alpha_listnet"}.difference(head.soft_alphas):
            foreign[name] = "it compares the scores of a query's passages, which models of one number a row give"
        for name, instead in foreign.items():
            given = self._batches_per_step_given if name == "batches_per_step" else getattr(self, name)
            if given != default[name] and not (name.startswith("alpha") and given == 0):
                raise InputError(f"--{name} is not for the head {head.name}: {instead}")

    @property
    def objective(self) -> Objective:
        """The losses asked for."""
        values: dict[str, Any] = {each.name: getattr(self, each.name, None) for each in fields(Objective)}
        layers = None if self.hidden_map is None else parse_layer_map(self.hidden_map)
        values |= {"hidden_map": layers, "impl": self.loss_impl}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Objective(**{**values, **lists})

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that teacher and student compute in."""
        if self.precision == "bf16" or (self.precision == "auto" and bf16_is_fast(self.device)):
            return torch.bfloat16
        return torch.float32
