"""Answer requests by a vLLM server, which receives a prompt's embeddings and returns the tokens of its answer.

The server holds the LLM alone (`mllm-eval export RUN --llm`). Images are encoded and projected on this side, and their
embeddings inserted between those of the text. The interface is the Completions API of vLLM's OpenAI-compatible server
with `prompt_embeds`, a base64-encoded torch file (https://docs.vllm.ai/en/stable/features/prompt_embeds/).
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mllm_eval.errors import UserError
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.embedding import EmbeddingBackend
from mllm_eval.storage import parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from mllm_eval.generate.batching import Piece, TokenBatch
    from mllm_eval.generate.embedding import Features
    from mllm_eval.generate.model import Answerer

# HTTP status codes of a busy or starting server; such requests are retried.
BUSY = (429, 502, 503, 504)
# vLLM's default maximum of log-probabilities per token (`--max-logprobs`).
MOST_LOGPROBS = 20


class Server:
    """A client of a vLLM server.

    url: the server's address, with or without `/v1`; UserError unless it is http or https.
    at_once: number of concurrent requests; the server batches them.
    timeout: seconds allowed per request. waits: seconds to wait before each retry.
    $VLLM_API_KEY, where set, is sent as the bearer token.
    """

    def __init__(
        self, url: str, at_once: int = 64, timeout: float = 600.0, waits: Sequence[float] = (1.0, 5.0, 20.0)
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise UserError(f"{url!r} is no address of a server; one is http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.at_once, self.timeout, self.waits = at_once, timeout, tuple(waits)

    @property
    def limits(self) -> Limits:
        """Limits for batches of four times the concurrent requests; their image embeddings are held in memory here."""
        return Limits(tokens=1024 * self.at_once, rows=4 * self.at_once)

    @cached_property
    def serves(self) -> str:
        """The name of the model that the server serves. Raises UserError where it serves none or can't be reached."""
        models = self._said("/v1/models")
        try:
            return str(models["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{self.url}: serves no model; start it as docs/vllm.md says") from None

    @property
    def positions(self) -> int | None:
        """The server's `max_model_len`: most tokens of a prompt and its answer together; None where not stated."""
        try:
            length = self._said("/v1/models")["data"][0].get("max_model_len")
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
        return length if isinstance(length, int) else None

    def __call__(
        self, model: Answerer, batch: TokenBatch, features: Mapping[str, Tensor], ends: frozenset[int]
    ) -> dict[int, list[int]]:
        """Return request number -> answer tokens, for each request of the batch whose images are all in `features`.

        `features` maps an image's SHA-256 to its patch features [h, w, D]. Each image is projected once.

        Raises:
            UserError: the server refuses a prompt or can no longer be reached.
        """
        import torch

        from mllm_eval.generate.model import embed_images, embed_pieces

        with torch.inference_mode():
            images = embed_images(model, features, batch.kept)

        def asked(number: int, pieces: Sequence[Piece], longest: int) -> tuple[int, list[int]]:
            # Embedding here keeps only as many prompts in memory as there are concurrent requests.
            with torch.inference_mode():
                prompt = embed_pieces(model, pieces, images)
            return number, self.complete(prompt, longest, ends)

        rows = [
            (row.request, (*batch.prefixes[row.prefix], *row.suffix), row.longest)
            for block in batch.blocks
            for row in block
            if all(image in features for image in batch.images(row))
        ]
        self.serves  # noqa: B018  asked once, before many ask
        with ThreadPoolExecutor(self.at_once) as pool:
            waiting = [pool.submit(asked, *row) for row in rows]
            try:
                return dict(one.result() for one in waiting)
            except UserError:
                pool.shutdown(cancel_futures=True)
                raise

    def complete(self, prompt: Tensor, longest: int, ends: frozenset[int]) -> list[int]:
        """Return the greedy answer to embeddings [N, H], at most `longest` tokens, including an end token.

        Raises UserError where the server refuses, can't be reached, or returns no token ids.
        """
        body = {
            "model": self.serves,
            "prompt": "",
            "prompt_embeds": packed(prompt),
            "max_tokens": longest,
            "temperature": 0.0,
            # Without this the server would use the value in its model's generation_config.
            "repetition_penalty": 1.0,
            "stop_token_ids": sorted(ends),
            "return_token_ids": True,
        }
        said = self._said("/v1/completions", body)
        try:
            choice = said["choices"][0]
            tokens = choice.get("token_ids")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise UserError(f"{self.url}: its answer has no choices: {str(said)[:200]}") from None
        if not isinstance(tokens, list):
            raise UserError(f"{self.url}: tells no token_ids; vLLM 0.11 does, as docs/vllm.md says")
        if choice.get("finish_reason") == "stop" and ends and (not tokens or tokens[-1] not in ends):
            mark = choice.get("stop_reason")
            tokens = [*tokens, mark if isinstance(mark, int) else min(ends)]
        return [int(token) for token in tokens]

    def first_token(self, prompt: Tensor, most: int = MOST_LOGPROBS) -> dict[int, float]:
        """Return token id -> natural log-probability of the `most` likeliest first tokens of the answer.

        `prompt` holds embeddings [N, H]. Raises UserError where the server returns none or can't be reached.
        """
        body = {
            "model": self.serves,
            "prompt": "",
            "prompt_embeds": packed(prompt),
            "max_tokens": 1,
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": most,
            # Several tokens can have the same text, so ids are needed.
            "return_tokens_as_token_ids": True,
        }
        said = self._said("/v1/completions", body)
        try:
            (told,) = said["choices"][0]["logprobs"]["top_logprobs"]
            return {int(str(name).removeprefix("token_id:")): float(value) for name, value in told.items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self.url}: tells no log-probabilities by token id; vLLM 0.11 does, and allows {most} "
                            "unless `--max-logprobs` says fewer") from None  # fmt: skip

    def _said(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, data, headers)
        for wait in (*self.waits, None):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return parse_json(reply.read(), fields_once=False)
            except urllib.error.HTTPError as error:
                said = " ".join(error.read().decode("utf-8", "replace").split())[:300]
                problem, again = f"{error.code} {said}", error.code in BUSY
            except (OSError, http.client.HTTPException) as error:
                problem, again = str(getattr(error, "reason", error)) or type(error).__name__, True
            except ValueError:
                problem, again = "its answer is no JSON", False
            if wait is None or not again:
                raise UserError(f"{self.url}{path}: {problem}; docs/vllm.md says how to start the server")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


class ServerBackend(EmbeddingBackend):
    """The backend that lets a server with a run's LLM answer."""

    def __init__(self, model: Answerer, template: str, features: Features, server: Server) -> None:
        """`model` only embeds text and projects features; the server computes the LLM's layers."""
        super().__init__(model, template, features, server.limits)
        self.server = server

    @cached_property
    def positions(self) -> int | None:  # asked once
        """The smaller of the LLM's and the server's limits, in tokens; None where neither is known."""
        known = [super().positions, self.server.positions]
        return min((one for one in known if one is not None), default=None)

    def complete_batch(self, batch: TokenBatch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """See `Server.__call__`."""
        return self.server(self.model, batch, features, self.ends)


def packed(prompt: Tensor) -> str:
    """Return embeddings [N, H] in the server's format: a base64-encoded torch file."""
    import torch

    held = io.BytesIO()
    # torch.save writes the whole storage behind a view, hence the copy.
    torch.save(prompt.detach().cpu().clone(), held)
    return base64.b64encode(held.getvalue()).decode()
