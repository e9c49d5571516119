"""One line while the Hub does not answer, in place of those that its library logs at every try of every file."""

from __future__ import annotations

import logging

REQUESTS = "huggingface_hub.utils._http"
"""The logger of what asks the Hub."""


def say_once() -> None:
    """From now on a Hub that does not answer is said in a line, once."""
    logger = logging.getLogger(REQUESTS)
    if not any(isinstance(each, _Once) for each in logger.filters):
        logger.addFilter(_Once())


class _Once(logging.Filter):
    """Lets the first failed request through, in our words; what is said of waiting and of further ones is dropped."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        why, failed, _ = message.partition(" thrown while requesting ")
        if not failed:
            return not message.startswith(("Retrying in ", "Rate limited. "))
        if self.said:
            return False
        self.said = True
        record.msg, record.args = (
            f"the Hugging Face Hub does not answer ({why.strip(chr(39))}); trying again for some seconds. "
            "HF_HUB_OFFLINE=1 takes at once what was downloaded before",
            (),
        )
        return True
