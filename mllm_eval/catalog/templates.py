"""The conversation templates, byte for byte.

`llama_3`, `vicuna_v1` and `chatml_direct` come from Cambrian-1's released code (cambrian/conversation.py). Its
llama_3 has no blank line after a header, and its system text contains the line breaks and indentation of the source
file. `llama_3_meta` is the template of Meta's LLaMA-3 model card. `chatml` is the template of SmolLM2 and many other
chat models without their default system text. `llama_3_metamorph` comes from MetaMorph (metamorph/conversation.py):
no system prompt, one line break after a header.
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
    """Texts around the parts of a conversation: begin, system, then user and assistant for each turn.

    system: the default system text; None if the template has none.
    between: text after an answer's closing mark, before the next user turn; not trained on.
    begin_of_tokenizer: for templates whose begin token comes from the tokenizer, how the tokenizer that the template
        was made for spells it.
    assistant_lead: text between the assistant's opening mark and the answer; trained on, absent from prompts.
    tokens: version of how prompts are tokenised. It is part of a run's hash unless it is 1, so that training on other
        tokens is another run.
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
        # MetaMorph skips a row's own system turn. If a recipe keeps it, its header is formed like the others.
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
        # Version 1 had no begin token, and tokenised the parts of a conversation separately.
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
