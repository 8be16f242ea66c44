"""What pyproject.toml can't say: adapters/, benchmarks/ and configs/ of the top become parts of the package."""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = ("adapters", "benchmarks", "configs")


class BuildPackage(build_py):
    """Copies the three folders into the package. A checkout that is installed in place reads them where they are."""

    def run(self) -> None:
        """Build as always, and then copy."""
        super().run()
        if not self.editable_mode:
            for name in BESIDE:
                target = Path(self.build_lib) / "mllm_eval" / name
                copytree(name, target, dirs_exist_ok=True, ignore=ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildPackage})
