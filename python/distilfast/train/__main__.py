"""`distilfast train`, `python -m distilfast.train`."""

from .._command import Command

COMMAND = Command(
    "train",
    "Distil a teacher into a student of fewer layers: a masked-language model or an encoder on text, a classifier, "
    "tagger or question answerer on rows. Without a teacher: pretrain a model, or fine-tune one.",
    "train.run:main",
    (
        "train.model_arguments:ModelArguments",
        "train.row_arguments:RowArguments",
        "train.arguments:DataArguments",
        "train.arguments:DistillationArguments",
    ),
    shown=(
        *("teacher", "text", "tokens", "train_file", "validation_file", "unlabelled_file", "text_column"),
        *("label_column", "output_dir", "layers", "student", "num_train_epochs", "max_steps", "learning_rate"),
        *("batch_tokens", "per_device_train_batch_size", "max_length", "alpha_ce", "dry_run"),
        *("resume_from_checkpoint", "overwrite"),
    ),
    required=("output_dir",),
    ranks=True,
)

if __name__ == "__main__":
    COMMAND.start()
