"""timm's hub: out of reach it is not asked again and again, within reach nothing changes."""

from __future__ import annotations

import http.server
import socket
import threading
import time
import urllib.error

import pytest
from huggingface_hub import constants

from runtime.errors import InputError
from train.config import EncoderConfig
from train.encoder import hub
from train.encoder.zoo import load_encoder


def test_out_of_reach_the_error_comes_at_once(monkeypatch):
    def nowhere(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr("urllib.request.urlopen", nowhere)
    began = time.monotonic()
    with pytest.raises(InputError, match="--weights FILE.safetensors"):
        load_encoder(EncoderConfig(encoder="timm/convnext_atto"))
    assert time.monotonic() - began < 5
    assert not constants.HF_HUB_OFFLINE


def test_what_was_downloaded_before_is_still_found(monkeypatch):
    monkeypatch.setattr(hub, "_reachable", lambda _: False)
    with hub.without_retries():
        assert constants.HF_HUB_OFFLINE  # the library then looks into its cache alone
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("status", "offline"), [(200, False), (403, False), (404, False), (429, True), (503, True), (None, True)]
)
def test_the_hub_is_offline_only_without_an_answer(monkeypatch, status, offline):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            if status is None:
                self.wfile.write(b"not HTTP\r\n")
                return
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    with hub.without_retries():
        assert constants.HF_HUB_OFFLINE is offline
    server.shutdown()
    server.server_close()


def test_a_silent_hub_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not hub._reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")
