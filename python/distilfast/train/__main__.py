"""`distilfast train`, `python -m distilfast.train`."""

from .._command import Command

COMMAND = Command(
    "train",
    "Distil a teacher into a student of fewer layers on plain text; or, without a teacher, pretrain a model from a "
    "configuration.",
    "train.run:main",
    ("train.arguments:ModelArguments", "train.arguments:DataArguments", "train.arguments:DistillationArguments"),
    shown=(
        "teacher",
        "text",
        "tokens",
        "output_dir",
        "layers",
        "student",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "batch_tokens",
        "max_length",
        "alpha_ce",
        "alpha_mlm",
        "alpha_cos",
        "temperature",
        "dropout",
        "recipe",
        "resume_from_checkpoint",
        "seed",
        "overwrite",
    ),
    required=("output_dir",),
    ranks=True,
)

if __name__ == "__main__":
    COMMAND.start()
