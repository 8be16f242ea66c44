"""A server on this machine that answers as vLLM's does, over a LLaMA of a test."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from mllm_eval.generate.server import Server


class Fake(ThreadingHTTPServer):
    """`/v1/models` and `/v1/completions` over a LLaMA. `script` says what goes wrong, request by request."""

    daemon_threads = True

    def __init__(self, llm: Any, told: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.llm, self.told = llm, told
        self.models: Any = [{"id": "held"}]
        self.bodies: list[dict[str, Any]] = []
        self.script: list[int] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @torch.inference_mode()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        embeddings = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)[None]
        tokens: list[int] = []
        reason, mark = "length", None
        while len(tokens) < body["max_tokens"]:
            token = int(self.llm(inputs_embeds=embeddings).logits[0, -1].argmax())
            if token in body["stop_token_ids"]:
                reason, mark = "stop", token
                break
            tokens.append(token)
            embeddings = torch.cat([embeddings, self.llm.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
        choice = {"index": 0, "text": "".join(chr(97 + one) for one in tokens if one < 12), "finish_reason": reason}
        return {"choices": [{**choice, "stop_reason": mark, **({"token_ids": tokens} if self.told else {})}]}


class Answering(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.reply(200, {"data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            status = self.server.script.pop(0) if self.server.script else 200
            said = self.server.complete(body) if status == 200 else {"error": {"message": "no prompt_embeds here"}}
        self.reply(status, said)

    def reply(self, status: int, said: Any) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def a_server(fake: Fake, **settings: Any) -> Server:
    return Server(fake.url + "/v1/", at_once=4, waits=(0.0, 0.0), **settings)
