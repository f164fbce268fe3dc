"""A byte-level tokenizer of a hundred ids, made in memory."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

N_IDS = 110
"""A vocabulary that has room for it."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(*, bos=True, adds=True, template=None, merges=(("Ċ", "Ċ"),)):
    """Letters, a space and a newline, a few special tokens, and the merges that are asked for."""
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"]
    vocab = {token: i for i, token in enumerate([*specials, *letters, *("".join(pair) for pair in merges)])}
    core = Tokenizer(models.BPE(vocab, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in specials])
    if bos and adds:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=template,
    )
