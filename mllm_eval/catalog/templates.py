"""The conversation templates, byte for byte.

`llama_3`, `vicuna_v1` and `chatml_direct` are those of Cambrian-1's released code
(cambrian/conversation.py): its llama_3 has no blank line after a header, and its system text keeps the
source file's line breaks and indentation. `llama_3_meta` is the template of Meta's LLaMA-3 model card.
`chatml` is that of SmolLM2's and many other chat models' files, without the system text that theirs begin with.
`llama_3_metamorph` is that of MetaMorph (metamorph/conversation.py): no system prompt, one line break after a header.
"""

from __future__ import annotations

from dataclasses import dataclass

_CAMBRIAN = (
    "You are Cambrian, a highly intelligent multimodal AI trained by NYU Vision X. ",
    "As a multimodal AI, you have the ability to process and analyze images. Whenever an image is present "
    "in the conversation, very carefully examine it and consider its content when formulating your response.",
    "You should give concise responses to very simple questions, but provide thorough responses to more "
    "complex and open-ended questions.",
)


@dataclass(frozen=True, slots=True)
class Template:
    """A conversation: begin, system, then user and assistant for each turn, each between open and close.

    system: the default system text, None for a template that has none unless one is given.
    between: what follows an answer's closing mark before the next user's turn; never learnt.
    begin_of_tokenizer: where the tokenizer's begin token stands in front, which the template does not write, how that
        token is spelt in the tokenizer that the template was made for.
    assistant_lead: stands between the assistant's open mark and the answer; learnt, absent from a prompt.
    tokens: version of how its prompts become tokens. A run's hash holds it where it is not 1, so that what was trained
        on other tokens is another run.
    """

    begin: str
    system: str | None
    system_open: str
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    assistant_lead: str = ""
    between: str = ""
    begin_of_tokenizer: str = ""
    tokens: int = 1


TEMPLATES: dict[str, Template] = {
    "llama_3": Template(
        begin="<|begin_of_text|>",
        system="\n    ".join(_CAMBRIAN) + " ",
        system_open="<|start_header_id|>system<|end_header_id|>",
        system_close="<|eot_id|>",
        user_open="<|start_header_id|>user<|end_header_id|>",
        user_close="<|eot_id|>",
        assistant_open="<|start_header_id|>assistant<|end_header_id|>",
        assistant_close="<|eot_id|>",
    ),
    "llama_3_meta": Template(
        begin="<|begin_of_text|>",
        system=None,
        system_open="<|start_header_id|>system<|end_header_id|>\n\n",
        system_close="<|eot_id|>",
        user_open="<|start_header_id|>user<|end_header_id|>\n\n",
        user_close="<|eot_id|>",
        assistant_open="<|start_header_id|>assistant<|end_header_id|>\n\n",
        assistant_close="<|eot_id|>",
    ),
    "llama_3_metamorph": Template(
        begin="<|begin_of_text|>",
        system=None,
        # It skips a row's own system turn; one that a recipe lets through is headed like the other turns.
        system_open="<|start_header_id|>system<|end_header_id|>\n",
        system_close="<|eot_id|>",
        user_open="<|start_header_id|>user<|end_header_id|>\n",
        user_close="<|eot_id|>",
        assistant_open="<|start_header_id|>assistant<|end_header_id|>\n",
        assistant_close="<|eot_id|>",
    ),
    "vicuna_v1": Template(
        begin="",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        system_open="",
        system_close=" ",
        user_open="USER: ",
        user_close=" ",
        assistant_open="ASSISTANT:",
        assistant_lead=" ",
        assistant_close="</s>",
        begin_of_tokenizer="<s>",
        # 1 had no begin token, and tokenised parts of a conversation on their own.
        tokens=2,
    ),
    "chatml_direct": Template(
        begin="",
        system="".join((_CAMBRIAN[0], _CAMBRIAN[1], " ", _CAMBRIAN[2])),
        system_open="<|im_start|>system\n",
        system_close="<|im_end|>",
        user_open="<|im_start|>user\n",
        user_close="<|im_end|>",
        assistant_open="<|im_start|>assistant\n",
        assistant_close="<|im_end|>",
    ),
    "chatml": Template(
        begin="",
        system=None,
        system_open="<|im_start|>system\n",
        system_close="<|im_end|>\n",
        user_open="<|im_start|>user\n",
        user_close="<|im_end|>\n",
        assistant_open="<|im_start|>assistant\n",
        assistant_close="<|im_end|>",
        between="\n",
    ),
}
