"""What goes to the Hub: the student, its tokenizer, its card and the summary of its training; nothing else."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, cast

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from .._core import InputError
from .._files import first_line, write_json, write_text
from ..models.card import CARD_SUMMARIES, model_card, without_paths
from ..tokenizer import load_transformers_tokenizer

logger = logging.getLogger(__name__)


class PushError(RuntimeError):
    """The student could not be pushed to the Hub; it is whole on this machine."""

    exit_code = 1  # of the command


class PublicTrainer(Trainer):
    """A `Trainer` that pushes from a folder with what the public may see, and writes a model card that is true.

    `Trainer` pushes its whole output directory, which holds prepared text and paths of this machine as well.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository. Raises `InputError` where that is not possible (no token, no network, no right)."""
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            strategy = HubStrategy(self.args.hub_strategy).value
            raise InputError(
                f"--hub_strategy {strategy} would push the optimiser's state; every_save and end push the student alone"
            )
        try:
            super().init_hf_repo(token, private)
        except Exception as error:  # of huggingface_hub, of its HTTP library, or of the network
            raise InputError(
                f"--push_to_hub: the repository cannot be made: {first_line(error)}; log in with hf auth login, or "
                "leave it out and push the finished student"
            ) from None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Uploads student, tokenizer, card and `train_summary.json`, as `Trainer.push_to_hub` does.

        Raises `PushError` where the Hub does not take them.
        """
        if getattr(self, "hub_model_id", None) is None:
            self.init_hf_repo(token, private)
        directory = cast(str, self.args.output_dir)
        named = self.args.hub_model_id.split("/")[-1] if self.args.hub_model_id else Path(directory).absolute().name
        kwargs.setdefault("model_name", named)
        scratch = tempfile.TemporaryDirectory(prefix="distilfast-push-")
        pushed: Any = None
        try:
            copy_summaries(Path(directory), Path(scratch.name))
            self.args.output_dir = scratch.name
            pushed = super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        except InputError:
            raise
        except Exception as error:
            raise PushError(
                f"the student is in {directory}, but the Hub did not take it: {first_line(error)}"
            ) from error
        finally:
            self.args.output_dir = directory
            if hasattr(pushed, "add_done_callback"):
                pushed.add_done_callback(lambda _: scratch.cleanup())
            else:
                scratch.cleanup()
        return pushed

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes the student as it is, in the background; a failure is logged and the training goes on."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        busy = getattr(self, "push_in_progress", None)
        if busy is not None and not busy.is_done() and not self.args.hub_always_push:
            return
        try:
            job = self.push_to_hub(f"Training in progress, step {self.state.global_step}", blocking=False)
        except PushError as error:
            logger.warning("%s", error)
            return
        jobs: Any = [job] if hasattr(job, "done") else []
        cast(Any, self).push_in_progress = PushInProgress(jobs)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,  # noqa: A002
        tags: Any = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: Any = None,
        dataset_tags: Any = None,
        dataset: Any = None,
        dataset_args: Any = None,
    ) -> None:
        """Writes README.md to the output directory: what the student is, how it was made, what it scored, without a
        path of this machine. `tags`, `tasks` and the data set's details are not stated in it."""
        if not self.is_world_process_zero():
            return
        folder = Path(cast(str, self.args.output_dir))
        student = cast(Any, self).student
        fields = {
            "title": model_name,
            "base_model": finetuned_from,
            "teacher": teacher_named_in(folder),
            "license": license,
            "language": language,
            "dataset": dataset if isinstance(dataset, str) else None,
        }
        tokenizer = self.processing_class
        if tokenizer is not None and not hasattr(tokenizer, "mask_token"):
            with tempfile.TemporaryDirectory() as scratch:
                cast(Any, tokenizer).save_pretrained(scratch)
                tokenizer = load_transformers_tokenizer(scratch)
        sentence = cast(Any, self).step.head.name == "embedding"
        write_text(folder / "README.md", model_card(student, tokenizer, folder, {}, fields, sentence=sentence))


def copy_summaries(source: Path, target: Path) -> None:
    """The records of training, without the paths of this machine."""
    for name in CARD_SUMMARIES:
        if (source / name).is_file():
            content = json.loads((source / name).read_text(encoding="utf-8"))
            write_json(target / name, without_paths(content))


def teacher_named_in(folder: Path) -> Any:
    """What the record of training calls the teacher."""
    summary = folder / CARD_SUMMARIES[0]
    return json.loads(summary.read_text(encoding="utf-8")).get("teacher") if summary.is_file() else None
