"""What every command shares: its flags from dataclasses, `--config`, `--help`, and errors of one line.

A command is a function of dataclasses; its flags are their fields, made by `flag`. `Command` answers
`--help` and wrong flags from the source of the dataclasses (`source.py`), then imports what the command needs and runs
it. Bad input ends with one line on stderr and exit code 2; anything else that goes wrong is a bug and shows its
traceback.
"""

from .flags import REQUIRED as REQUIRED
from .flags import flag as flag
from .idle import Parts as Parts
from .idle import changed as changed
from .idle import idle as idle
from .idle import refuse_idle as refuse_idle
from .idle import refuse_unread as refuse_unread
from .parser import given as given
from .parser import parse as parse
from .parser import require_positive as require_positive
from .start import Command as Command
from .start import choose as choose
from .start import run as run
from .unreachable import watch_hub as watch_hub
from .values import fitted as fitted
