"""What a wheel holds, and that it works outside the checkout and without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mllm_eval.adapters import FAMILIES

MADE = ("adapters", "benchmarks", "configs", "mllm_eval")
WITHOUT_TORCH = """
import os, sys
# As where they are not installed.
from importlib.machinery import PathFinder
found = PathFinder.find_spec
without = ("torch", "transformers")
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.split(".")[0] in without else found(name, *more)
)
import evaluate
import mllm_eval
from mllm_eval.catalog import load_benchmark, load_encoder, load_llm, load_recipe, names
from mllm_eval.score import load_scorer
assert mllm_eval.__file__.startswith(sys.argv[1]), mllm_eval.__file__
for kind, load in (("encoders", load_encoder), ("llms", load_llm), ("recipes", load_recipe)):
    assert names(kind) and all(load(name) for name in names(kind))
for name in names("benchmarks"):
    benchmark = load_benchmark(name)
    assert str(benchmark.folder).startswith(sys.argv[1]) and load_scorer(benchmark).rules
os.chdir(f"{sys.argv[1]}/mllm_eval")
said = evaluate.load("benchmarks/chartqa").compute(predictions=["14"], references=[{"answer": "14", "type": "x"}])
print(len(names("benchmarks")), said["accuracy"])
"""


def test_no_file_of_the_checkout_is_a_link() -> None:
    for folder in (*MADE, "docs", "tests"):
        assert [path for path in (ROOT / folder).rglob("*") if path.is_symlink()] == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which a wheel of this checkout was installed, without what it depends on."""
    pytest.importorskip("setuptools", "77")
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"
    for name in MADE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    for words in (
        ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(place), str(source)],
        ["install", *offline, "--target", str(place / "site"), "--find-links", str(place), "mllm-eval"],
    ):
        done = subprocess.run([*pip, *words], capture_output=True, text=True, cwd=place)
        assert done.returncode == 0, done.stderr[-2000:]
    return place / "site"


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_three_folders_and_no_other_package(installed: Path) -> None:
    for folder in ("adapters", "benchmarks", "configs"):
        inside = installed / "mllm_eval" / folder
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert (inside / path.relative_to(ROOT / folder)).read_bytes() == path.read_bytes()
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"bin", "mllm_eval"}


@pytest.mark.slow
def test_the_installed_package_works_elsewhere_and_without_torch(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("evaluate")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(installed)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(installed),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path),
            "MLLM_EVAL_DATA": str(tmp_path),
        },
    )
    assert done.stdout.split() == ["16", "100.0"], done.stderr[-2000:]


@pytest.mark.slow
def test_an_installed_family_is_imported_by_its_name(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = "from mllm_eval.adapters import FAMILIES, family; print(*(family(n).__module__ for n in FAMILIES))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed), "HOME": str(tmp_path)},
    )  # fmt: skip
    modules = [f"mllm_eval.adapters.{name}" for name in FAMILIES]
    assert sorted(done.stdout.split()) == sorted(modules), done.stderr[-2000:]
