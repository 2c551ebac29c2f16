"""The hub that timm takes weights from, and what to do where it cannot be reached."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach."""

LATER = (429, 500, 502, 503, 504)
"""HTTP status: too many requests, or no answer from behind."""


@contextmanager
def without_retries() -> Iterator[None]:
    """Where the hub cannot be reached, its library looks only at what was downloaded before.

    Left alone, it tries for minutes.  Where the hub can be reached nothing changes.
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
    """Whether the hub answers: a refusal is an answer, and so is a certificate that is not trusted here.

    An answer that asks to come back later is none, be it the hub's or that of a proxy without it: the
    hub's library would do so, again and again.
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
