"""The yaml files that a user writes or is given."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzzing.mutation import changed_yaml
from fuzzing.running import Subject
from mllm_eval.alignment.protocol import load_alignment
from mllm_eval.catalog import load_benchmark, load_encoder, load_llm, load_recipe
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.config import canonical
from mllm_eval.errors import UserError
from mllm_eval.saved import read_saved
from mllm_eval.storage import SHIPPED


class Yaml(Subject):
    """Files of one kind, each as it is shipped but for a change; read by name of the file, and hashed."""

    files: tuple[str, ...]
    load: Callable[[str], Any]

    def __init__(self, home: Path) -> None:
        kind = Path(self.files[0]).parent
        self.folder = home / kind
        if not (SHIPPED / self.files[0]).is_file():
            raise RuntimeError(self.files[0])
        shutil.copytree(SHIPPED / kind, self.folder, dirs_exist_ok=True)
        every = [
            changed_yaml((SHIPPED / name).read_bytes()).map(lambda data, name=name: (home / name, data))
            for name in self.files
        ]
        self.inputs = st.one_of(every)

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        path.write_bytes(data)
        canonical(type(self).load(str(path)))
        return "read"


class EncoderYaml(Yaml):
    files = ("configs/encoders/mini-dino.yaml", "configs/encoders/webssl-dino1b-full2b-224.yaml")

    @staticmethod
    def load(path: str) -> Any:
        found = load_encoder(path)
        return [found.identity(), found.grid]


class LlmYaml(Yaml):
    files = ("configs/llms/mini-llama.yaml", "configs/llms/llama-3-8b-instruct.yaml")

    @staticmethod
    def load(path: str) -> Any:
        return load_llm(path).identity()


class RecipeYaml(Yaml):
    files = ("configs/recipes/mini.yaml", "configs/recipes/webssl-paper.yaml")

    @staticmethod
    def load(path: str) -> Any:
        found = load_recipe(path)
        return [found.identity(), found.assumed()]


class ProbeYaml(Yaml):
    files = ("configs/probes/in1k_linear.yaml", "configs/probes/nyu_linear4.yaml")
    load = staticmethod(load_protocol)


class AlignmentYaml(Yaml):
    files = ("configs/alignments/platonic.yaml",)
    load = staticmethod(load_alignment)


class BenchmarkYaml(Yaml):
    files = ("benchmarks/mmvp/benchmark.yaml", "benchmarks/seed/benchmark.yaml")

    def __init__(self, home: Path) -> None:
        shutil.copytree(SHIPPED / "benchmarks", home / "benchmarks")
        super().__init__(home)

    @staticmethod
    def load(path: str) -> Any:
        from mllm_eval.data.snapshots import load_samples
        from mllm_eval.score.scorer import protocol

        found = load_benchmark(path)
        for rules in found.rules:
            protocol(found, rules)
        for pin in found.data:
            # There are none: what can be said without them is.
            with contextlib.suppress(UserError):
                load_samples(found, pin)
        return found


class ExternalYaml(Subject):
    """The config of an external model's folder."""

    sound = b"""model:
  name: llava-1.5-7b
  weights: {path: null, repo: owner/name, revision: null}
  digest: owner/name@main
  data: mini
  dtype: bfloat16
  batch: 1
  overruled: {temperature: 0.6, top_p: 0.9}
"""

    def __init__(self, home: Path) -> None:
        self.inputs = changed_yaml(self.sound)
        self.folder = home / "results/runs/0123456789ab"
        self.folder.mkdir(parents=True)

    def read(self, given: bytes) -> str:
        (self.folder / "config.yaml").write_bytes(given)
        found = read_saved(self.folder)
        canonical([found.hash, found.config()])
        return "read"


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "encoder yaml": EncoderYaml, "llm yaml": LlmYaml, "recipe yaml": RecipeYaml, "benchmark yaml": BenchmarkYaml,
    "probe yaml": ProbeYaml, "alignment yaml": AlignmentYaml, "external yaml": ExternalYaml,
}  # fmt: skip
