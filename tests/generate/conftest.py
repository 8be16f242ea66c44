"""Fixtures of generation: a server with the model that it holds, and an external model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from external_models import EXAMPLE, make_checkpoint, write_questions
from pretend_server import Fake
from tiny_generation import Tiny

from mllm_eval.model.export import export_llava


@pytest.fixture
def held() -> Iterator[tuple[Tiny, Fake]]:
    torch.set_num_threads(1)
    # In float64, so that no two tokens are so close that another order of sums could choose the other one.
    model = Tiny().double()
    fake = Fake(model.llm)
    threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
    yield model, fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture(scope="module")
def external_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A benchmark of one's own with nine questions on three images, a checkpoint, and the checkpoint as LLaVA."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_DATA", str(home / "data"))
        patch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
        patch.setenv("MLLM_EVAL_PATH", str(EXAMPLE))
        write_questions(home / "data" / "easy-vqa" / "data" / "test-00000-of-00001.parquet")
        export_llava(make_checkpoint(home / "made"), home / "llava")
        yield home
