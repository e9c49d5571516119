"""A Hub that cannot be reached: said in one line, and over within seconds.

Its library asks for every file by itself, tries each for half a minute, and logs every try. A host that did not let us
connect for `PATIENCE` seconds will not for the next file; one that has answered before keeps the library's patience,
and so do connections that stand and are slow.
"""

from __future__ import annotations

import logging
import time
from typing import Any

REQUESTS = "huggingface_hub.utils._http"
"""The logger of what asks the Hub."""

PATIENCE = 5.0
"""Seconds from the first request that does not get through until no other is sent."""

CONNECTING = 10.0
"""Seconds in which a connection must stand, for requests that say nothing of it: the library would wait for ever."""


def watch_hub() -> None:
    """From now on a Hub that does not answer is said in a line, once, and soon given up."""
    logger = logging.getLogger(REQUESTS)
    if any(isinstance(each, _Once) for each in logger.filters):
        return
    logger.addFilter(_Once())

    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    connection = Connection()
    set_client_factory(lambda: connection.watched(default_client_factory()))


class Connection:
    """Whether anything has been reached, and since when it was tried in vain."""

    def __init__(self) -> None:
        self.reached = False
        self.failing_since: float | None = None
        self.why = ""

    def watched(self, client: Any) -> Any:
        """`client`, an HTTP client of the library, whose requests fail at once where they cannot get through."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        send = client.send
        client.timeout = (CONNECTING, None, None, None)

        def watched_send(request: Any, **options: Any) -> Any:
            started = time.monotonic()
            if self.failing_since is not None and not self.reached and started - self.failing_since > PATIENCE:
                # What the library takes as a matter of course, looks into its cache for, and does not try again.
                raise OfflineModeIsEnabled(f"the Hugging Face Hub does not answer ({self.why})")
            try:
                response = send(request, **options)
            except Exception as error:
                if type(error).__name__ in ("ConnectError", "ConnectTimeout"):
                    self.why = str(error) or "no connection"
                    self.failing_since = self.failing_since or started
                raise
            self.reached = True
            return response

        client.send = watched_send
        return client


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
