"""Removes the spaces that tokenizers in transformers up to version 4 removed by default when decoding."""

from __future__ import annotations

# In the order of transformers 4.37 (PreTrainedTokenizerBase.clean_up_tokenization).
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
    """Remove spaces before punctuation and contractions in a decoded answer: "Yes ." becomes "Yes.".

    Since version 5, transformers does not do this for byte-pair tokenizers such as LLaMA's, whatever
    `clean_up_tokenization_spaces` says.
    """
    for spaced, closed in TAKEN:
        text = text.replace(spaced, closed)
    return text
