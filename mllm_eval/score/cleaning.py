"""The spaces that transformers took away when it decoded, up to version 4, where a tokenizer did not say otherwise."""

from __future__ import annotations

# In this order, as transformers 4.37 has it (PreTrainedTokenizerBase.clean_up_tokenization).
TAKEN = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up_spaces(text: str) -> str:
    """A decoded answer without its spaces before punctuation and contractions: "Yes ." becomes "Yes.".

    From version 5 on transformers leaves the text of byte-pair tokenizers such as LLaMA's alone, whatever
    `clean_up_tokenization_spaces` says.
    """
    for spaced, closed in TAKEN:
        text = text.replace(spaced, closed)
    return text
