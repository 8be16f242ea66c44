"""Follows a page of the documentation: writes its files, runs its commands, and holds what they print to it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner

from mllm_eval.cli.app import app

_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`([\w./-]+\.\w+)`[^`]*:\s*\Z")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")


@dataclass(frozen=True)
class Command:
    """A line behind `$ `, and what the page says that it prints."""

    line: str
    output: str


@dataclass(frozen=True)
class File:
    """A block that the text before it gives a name: "... `adapters/mine.py`:"."""

    path: str
    text: str


def steps(page: Path) -> list[Command | File]:
    """Files and commands of a page, in its order."""
    text, found = page.read_text(encoding="utf-8"), list[Command | File]()
    for block in _FENCE.finditer(text):
        body = textwrap.dedent(block["body"])
        if block["kind"] == "console":
            for one in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, output = one.partition("\n")
                found.append(Command(line, output.strip("\n")))
        elif named := _NAMED.search(text[: block.start()].rstrip()[-200:]):
            found.append(File(named[1], body))
    return found


_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
_BEHIND = re.compile(r" {2,}|  *#| *$| *(?:>|\||&&|;) ")


def command_lines(page: Path) -> list[str]:
    """The calls of `mllm-eval` in a page's blocks of code, each without what is said or piped behind it."""
    lines = []
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        for line in (block[1] or block[2]).replace("\\\n", " ").splitlines():
            call = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?(mllm-eval .*)", line)
            if call:
                lines.append(call[1][: _BEHIND.search(call[1]).start()])  # type: ignore[union-attr]
    return lines


def unknown_words(line: str) -> list[str]:
    """The words of a call of `mllm-eval` that it does not know: commands, options, missing or too many arguments."""
    words, command = shlex.split(line)[1:], typer.main.get_command(app)
    while (commands := getattr(command, "commands", None)) is not None and words and not words[0].startswith("-"):
        name = next((one for one in (" ".join(words[:2]), words[0]) if one in commands), None)
        if name is None:
            return words[:1]
        command, words = commands[name], words[len(name.split()) :]
    if commands is not None or "--help" in words:
        return [one for one in words if one != "--help"]
    try:
        command.make_context(line, words)
    except Exception as error:  # typer has click's errors, of whichever click it is
        return [str(getattr(error, "message", error))]
    return []


def follow(page: Path) -> list[str]:
    """Do what a page says in the working folder; the commands whose output is not the page's, with both."""
    wrong = []
    for step in steps(page):
        if isinstance(step, File):
            path = Path(step.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        else:
            printed = run(step.line).strip("\n")
            if not same(step.output.replace("$PWD", str(Path.cwd())), printed):
                wrong.append(f"$ {step.line}\n{step.output}\n--- prints\n{printed}")
    return wrong


def run(line: str) -> str:
    """What a command prints: its standard output, and where it fails its error. Imports are those of this process."""
    words = shlex.split(line)
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        os.environ[name] = value.replace("$PWD", str(Path.cwd()))
        return ""
    if words[0] == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(words[1], run_name="__main__")
        return printed.getvalue()
    if words[0] == "mllm-eval":
        own, _, rest = line.partition(" | ")
        done = CliRunner().invoke(app, shlex.split(own)[1:])
        text = done.stdout if done.exit_code == 0 else done.stdout + done.stderr
        return _shell(rest, text) if rest else text
    return _shell(line)


def _shell(line: str, given: str = "") -> str:
    done = subprocess.run(["bash", "-c", line], input=given, capture_output=True, text=True, check=True)
    return done.stdout


def _without(line: str) -> str:
    # A number of one digit more stands one column further left.
    return re.sub(r" +#", " #", _NUMBER.sub("#", line))


def same(told: str, printed: str) -> bool:
    """Whether two texts are the same, blanks at the ends of lines and the last digits of measured numbers apart."""
    lines, found = ([line.rstrip() for line in text.splitlines()] for text in (told, printed))
    if [_without(line) for line in lines] != [_without(line) for line in found]:
        return False
    numbers = [[float(one) for line in text for one in _NUMBER.findall(line)] for text in (lines, found)]
    # Other processors sum in another order; a benchmark of 48 questions moves by 2.1 with each.
    return all(abs(a - b) <= (5 if a > 20 else 0.02) for a, b in zip(*numbers, strict=True))
