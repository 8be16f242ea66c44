"""Fetch the weights of encoders and LLMs, check them against their yaml, and lock their checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_eval.adapters import weights_place
from mllm_eval.catalog import LLM, Encoder, Weights
from mllm_eval.catalog.llamaconfig import llama_config
from mllm_eval.environment import before_torch
from mllm_eval.errors import UserError
from mllm_eval.hub import Lock, Source, lock_path, locked_folder, read_lock
from mllm_eval.hub.safetensors_header import read_header, shards_of, weight_map
from mllm_eval.pipeline.reporter import Reporter, Silent

CONFIGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
TOKENS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
# File names of weights on the hub, the preferred form first.
STEMS = (("model", ".safetensors"), ("open_clip_model", ".safetensors"), ("pytorch_model", ".bin"))


@dataclass(frozen=True)
class Whole:
    """An external model on the hub, `owner/name[@revision]`, that has no yaml."""

    name: str
    weights: Weights

    @classmethod
    def of(cls, text: str) -> Whole:
        """Parse `owner/name[@revision]`."""
        source = Source.of_model(text)
        return cls(text, Weights(repo=source.repo, revision=source.revision))


@dataclass(frozen=True)
class ProvidedWeights:
    """Weights that are on this machine and were checked.

    lock: None for weights that the yaml gives as a local folder. notes: sentences for the user of the weights.
    """

    name: str
    place: Path
    lock: Lock | None
    lock_file: Path | None
    notes: tuple[str, ...] = ()


def needed_files(names: Sequence[str]) -> list[str]:
    """Return the files of a repository that loading reads: configs, tokenizer, and one form of the weights.

    Safetensors are preferred. Files in sub-folders are left out, as they hold other formats.
    """
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if name in CONFIGS or name in TOKENS]
    for stem, ending in STEMS:
        weights = [name for name in top if name.startswith(stem) and name.endswith(ending)]
        if weights:
            # A repository with both shards and a single file holds the same weights twice.
            whole = [name for name in weights if "-of-" not in name]
            indexes = [name for name in top if name.startswith(stem) and name.endswith(f"{ending}.index.json")]
            return sorted([*chosen, *(whole or [*weights, *indexes])])
    return sorted(chosen)


def provide_weights(
    chosen: Sequence[Encoder | LLM | Whole],
    offline: bool = False,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> list[ProvidedWeights]:
    """Provide weights: fetch and lock missing ones, compare locked ones byte for byte, check all against their yaml.

    Args:
        offline: fetch nothing; lock files from huggingface_hub's cache, and compare files that are locked already.
        folder: lock the files in this folder instead (or in its sub-folder with the repository's name).

    Raises:
        UserError: weights that can't be provided, or that contradict the lock or the yaml. No lock is written then.
    """
    listener = reporter or Silent()
    return [_provide(one, offline, folder, listener) for one in chosen]


def _provide(one: Encoder | LLM | Whole, offline: bool, folder: Path | None, reporter: Reporter) -> ProvidedWeights:
    source = one.weights.source()
    if source is None:
        place = one.weights.folder()
        assert place is not None
        if not place.exists():
            raise UserError(f"{place}: no such folder of weights; correct `weights: path:` of {one.name}")
        return ProvidedWeights(one.name, place, None, None, check(one, place))
    source = Source(source.kind, source.repo, source.revision, f"run `mllm-eval weights` for {one.name} again")
    before = lock_path(source).read_bytes() if read_lock(source) is not None else None
    place = _bring(one.weights, source, offline, folder, reporter)
    try:
        notes = check(one, place)
    except UserError:
        if before is None:
            lock_path(source).unlink(missing_ok=True)
        raise
    return ProvidedWeights(one.name, place, read_lock(source), lock_path(source), notes)


def _bring(weights: Weights, source: Source, offline: bool, folder: Path | None, reporter: Reporter) -> Path:
    from mllm_eval.hub.fetch import adopt, cached_folder, fetch, fetch_url

    path = weights.folder()
    name = None if path is None else path.name
    if folder is None and read_lock(source) is not None:
        try:
            return _file(locked_folder(source, whole=True), name)
        except UserError:
            if offline:
                raise
            # Missing or damaged files are fetched again and compared with the same lock.
    if folder is not None:
        inner = folder / source.repo.rpartition("/")[2]
        given = inner if path is None and inner.is_dir() else folder
        return _file(adopt(source, needed_files if name is None else _only(name), given), name)
    if path is not None:
        if path.is_file() or offline:
            if not path.is_file():
                raise UserError(f"{path}: not here; {source.mend} without --offline, or with --from")
            return _file(adopt(source, _only(path.name), path.parent), name)
        with reporter.step(f"weights: {path.name}") as progress:
            return _file(fetch_url(source, path, progress=progress), name)
    if offline:
        return adopt(source, needed_files, cached_folder(source))
    with reporter.step(f"weights: {source}") as progress:
        return fetch(source, needed_files, progress=progress)


class _only:
    """Selects the file with this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name == self.name]


def _file(folder: Path, name: str | None) -> Path:
    return folder if name is None else folder / name


def check(one: Encoder | LLM | Whole, place: Path) -> tuple[str, ...]:
    """Check headers, shards, architecture and parameter count against the yaml, without reading the weights.

    Returns notes on an LLM (its quantisation, and which template its chat template matches), else nothing.
    Raises UserError for truncated or missing files, or another architecture.
    """
    held = _elements(place) if place.is_dir() else None
    if isinstance(one, Whole):
        if not (place / "config.json").is_file():
            raise UserError(f"{place}: no config.json; {one.name} is not a model in the hub's format")
        return ()
    if isinstance(one, LLM):
        llama_config(one, place)
    if held is not None and held < one.params - _tied(one):
        raise UserError(f"{place}: {held:,} parameters in its files, {one.name}'s yaml says {one.params:,}")
    before_torch()
    if isinstance(one, LLM):
        from mllm_eval.model.outline import llama_outline

        llama_outline(one, place)
        return _about_words(one, place)
    from mllm_eval.adapters import hold_encoder

    hold_encoder(one, place)
    return ()


def _elements(folder: Path) -> int | None:
    """Return the number of parameters in a folder's safetensors files; None for weights in another form.

    Raises UserError for a folder without weights, or a shard or tensor that an index names and that is missing.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        listed = weight_map(index)
        for shard in shards_of(index):
            path = folder / shard
            if not path.is_file():
                raise UserError(f"{path}: the shard is missing that {index.name} names; fetch it again")
            lost = sorted({name for name, at in listed.items() if at == shard} - set(read_header(path)))
            if lost:
                raise UserError(f"{path}: has no tensor {lost[0]}, which {index.name} says; fetch it again")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(facts.elements for path in files for facts in read_header(path).values())
    if not [*folder.glob("*.bin")]:
        raise UserError(f"{folder}: no weights in it (model.safetensors or pytorch_model.bin)")
    return None


def _tied(one: Encoder | LLM) -> int:
    # Tied input and output embeddings are stored once.
    shape = one.architecture if isinstance(one, LLM) else None
    return one.vocab * one.width if isinstance(one, LLM) and (shape is None or shape.tied) else 0


def _about_words(llm: LLM, place: Path) -> tuple[str, ...]:
    from mllm_eval.model.chat import nearest_template
    from mllm_eval.model.checkpoint import tokenizer_at

    folder = place if llm.tokenizer is None else weights_place(llm.tokenizer)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{folder}: no tokenizer in it (tokenizer.json or tokenizer.model)")
    chat = nearest_template(tokenizer_at(folder))
    kept = f"matrices kept as {llm.quantisation}" if llm.quantisation else None
    return tuple(said for said in (kept, chat) if said)
