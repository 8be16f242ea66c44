"""An environment for each client, made once and again when its requirements change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


class NotInstalledError(Exception):
    """A client that cannot be had here; says why in one line."""


@dataclass(frozen=True)
class Client:
    """Who asks: a program of `clients/` in an environment that `requirements/` describes.

    name: of its requirements. says: what the table calls it. package: whose version the table shows. imports: the
    module without which it cannot start. program: asks the questions.
    """

    name: str
    says: str
    package: str
    imports: str
    program: str

    @property
    def requirements(self) -> list[Path]:
        """What is installed with its dependencies, and behind it, where there is any, what is without."""
        files = [HERE / "requirements" / f"{self.name}{part}.txt" for part in ("", "-alone")]
        return [file for file in files if file.is_file()]

    @property
    def pins(self) -> dict[str, str]:
        """Package to version, of all its requirements."""
        lines = [line for file in self.requirements for line in file.read_text(encoding="utf-8").splitlines()]
        return dict(line.split("==") for line in lines if line and not line.startswith("#"))

    @property
    def version(self) -> str:
        """Of its package, and of transformers where that is another one."""
        own, stock = self.pins[self.package], self.pins["transformers"]
        return own if self.package == "transformers" else f"{own}, transformers {stock}"


PIPELINE = ("pipeline", "transformers", "transformers.pipelines", "ask_pipeline.py")
CLIENTS = (
    Client("transformers-pinned", *PIPELINE),
    Client("transformers-oldest", *PIPELINE),
    Client("transformers-4.57", *PIPELINE),
    Client("lm-eval", "lm-evaluation-harness hf-multimodal", "lm-eval", "lm_eval.models.hf_vlms", "ask_lm_eval.py"),
    Client("lmms-eval", "lmms-eval llava_hf", "lmms-eval", "lmms_eval.models.simple.llava_hf", "ask_lmms_eval.py"),
)


def environment(client: Client, home: Path, torch_from: str | None = None) -> Path:
    """The Python of a client's environment under `home`, which is made where it is not there.

    torch_from: the index that torch comes from; by default pip's own.

    Raises:
        NotInstalledError: pip could not install it, or it cannot be imported, with the reason.
    """
    folder, wanted = home / client.name, "".join(file.read_text(encoding="utf-8") for file in client.requirements)
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.is_file() or installed.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        if torch_from:
            _run([*pip, "--no-deps", "--index-url", torch_from, f"torch=={client.pins['torch']}"])
        for file in client.requirements:
            _run([*pip, *(["--no-deps"] if file.stem.endswith("-alone") else []), "-r", str(file)])
        installed.write_text(wanted, encoding="utf-8")
    _run([str(python), "-c", f"import {client.imports}"])
    return python


def ask(client: Client, python: Path, export: Path, folder: Path, out: Path) -> str | None:
    """Have a client answer the questions of `folder`, into a new folder `out`; why it gave no answers, or None."""
    out.mkdir(parents=True)
    words = [str(python), str(HERE / "clients" / client.program), str(export), str(folder), str(out / "answers.jsonl")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hf")}
    with (out / "log").open("wb") as log:
        done = subprocess.run(
            words, cwd=out, env={**clean(os.environ), **offline}, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode == 0 and (out / "answers.jsonl").is_file():
        return None
    return reason((out / "log").read_text(encoding="utf-8", errors="replace"))


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment's variables without those that bring this project's packages into another Python."""
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def reason(log: str) -> str:
    """The line of a log that says why: pip's first error, or else the last line, which is Python's."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line and not line.startswith("WARNING")]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["it said nothing"])[0]


def _run(words: list[str]) -> None:
    done = subprocess.run(words, env=clean(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalledError(reason(done.stdout + done.stderr))
