"""The lower bounds of pyproject.toml as requirements; `make test-lowest` installs them and runs tests there."""

from __future__ import annotations

import re

import pytest
from lowest import lowest
from places import ROOT

PROJECT = """
[project]
dependencies = ["numpy>=2.0"]
[project.optional-dependencies]
model = ["torch>=2.6", "transformers>=5.20"]
"""


def test_each_dependency_is_asked_in_its_lower_bound_and_torch_in_the_pinned_one() -> None:
    assert lowest(PROJECT, "tqdm==1\ntorch==2.13.0\n") == ["numpy==2.0", "torch==2.13.0", "transformers==5.20"]


def test_a_dependency_without_a_lower_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="'transformers' states no lower bound"):
        lowest(PROJECT.replace("transformers>=5.20", "transformers"), "torch==2.13.0\n")


def test_every_dependency_states_a_bound_that_the_pins_keep() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    for one in lowest((ROOT / "pyproject.toml").read_text(), pins):
        name, version = one.split("==")
        pinned = re.search(rf"^{name.replace('_', '[-_]')}==(\S+)", pins, re.MULTILINE | re.IGNORECASE)
        assert pinned is not None, name
        have, least = ([int(part) for part in re.findall(r"\d+", text)] for text in (pinned[1], version))
        assert have >= least, one
