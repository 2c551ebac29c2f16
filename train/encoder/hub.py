"""The hub that timm downloads weights from: no retries where it cannot be reached."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

SECONDS = 5.0
"""Seconds after which the hub counts as out of reach."""

LATER = (429, 500, 502, 503, 504)
"""HTTP status codes: too many requests, or no answer from the server behind a proxy."""


@contextmanager
def without_retries() -> Iterator[None]:
    """Let the hub's library use only its cache if the hub cannot be reached, instead of minutes of retries.

    If the hub can be reached, nothing changes.
    """
    if constants.HF_HUB_OFFLINE or _reachable(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _reachable(url: str) -> bool:
    """Whether the hub answers; a refusal and an untrusted certificate count as answers.

    A status of LATER does not count, whether from the hub or from a proxy, because the hub's library would
    retry.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        return error.code not in LATER
    except http.client.HTTPException:
        return False
    except OSError as error:
        return isinstance(getattr(error, "reason", error), ssl.SSLError)
    return True
