"""Weights of encoders and LLMs: fetched, checked against their yaml, locked."""

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
# Names that weights have on the hub, the wanted ones first.
STEMS = (("model", ".safetensors"), ("open_clip_model", ".safetensors"), ("pytorch_model", ".bin"))


@dataclass(frozen=True)
class Whole:
    """An external model of the hub, `owner/name[@revision]`, of which no yaml says anything."""

    name: str
    weights: Weights

    @classmethod
    def of(cls, text: str) -> Whole:
        repo, _, revision = text.partition("@")
        return cls(text, Weights(repo=repo, revision=revision or None))


@dataclass(frozen=True)
class Found:
    """Weights that are here and checked; `lock` is None for those that were never anywhere else.

    notes: what whoever uses them should know.
    """

    name: str
    place: Path
    lock: Lock | None
    lock_file: Path | None
    notes: tuple[str, ...] = ()


def needed_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that loading reads: configs, tokenizer, and one form of the weights.

    The weights are safetensors where the repository has any; files in sub-folders (other formats) are left out.
    """
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if name in CONFIGS or name in TOKENS]
    for stem, ending in STEMS:
        weights = [name for name in top if name.startswith(stem) and name.endswith(ending)]
        if weights:
            # Shards and a whole file beside them would be the same weights twice.
            whole = [name for name in weights if "-of-" not in name]
            indexes = [name for name in top if name.startswith(stem) and name.endswith(f"{ending}.index.json")]
            return sorted([*chosen, *(whole or [*weights, *indexes])])
    return sorted(chosen)


def provide_weights(
    chosen: Sequence[Encoder | LLM | Whole],
    offline: bool = False,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Found]:
    """See to it that weights are here, whole, and what their yaml says; locked ones are read whole and compared.

    Args:
        offline: fetch nothing; lock what huggingface_hub's cache has, compare what is locked.
        folder: lock the files in this folder instead (or in its sub-folder of the repository's name).

    Raises:
        UserError: what can't be had, or is not what the lock or the yaml says; nothing is locked then.
    """
    listener = reporter or Silent()
    return [_provide(one, offline, folder, listener) for one in chosen]


def _provide(one: Encoder | LLM | Whole, offline: bool, folder: Path | None, reporter: Reporter) -> Found:
    source = one.weights.source()
    if source is None:
        place = one.weights.folder()
        assert place is not None
        if not place.exists():
            raise UserError(f"{place}: no such folder of weights; correct `weights: path:` of {one.name}")
        return Found(one.name, place, None, None, check(one, place))
    source = Source(source.kind, source.repo, source.revision, f"run `mllm-eval weights` for {one.name} again")
    before = lock_path(source).read_bytes() if read_lock(source) is not None else None
    place = _bring(one.weights, source, offline, folder, reporter)
    try:
        notes = check(one, place)
    except UserError:
        if before is None:
            lock_path(source).unlink(missing_ok=True)
        raise
    return Found(one.name, place, read_lock(source), lock_path(source), notes)


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
            # What is gone or damaged is fetched again, and held to the same lock.
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
    """The one file of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name == self.name]


def _file(folder: Path, name: str | None) -> Path:
    return folder if name is None else folder / name


def check(one: Encoder | LLM | Whole, place: Path) -> tuple[str, ...]:
    """Hold files against the yaml without reading the weights: headers, shards, architecture, parameters.

    What an LLM's user should know is returned: how it is quantised, which template its chat template is.
    Raises UserError for what is cut short, missing, or of another architecture.
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
    """Parameters in a folder's safetensors files, all shards of an index; None where it has another form."""
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
    # A file holds tied words once.
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
