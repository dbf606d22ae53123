"""A GGUF file's tokenizer as the file means it.

transformers takes the vocabulary and the merges, but cuts every byte-level text into words by GPT-2's rule, exchanges
the names of the first and last token, and never puts a first token before a text. The file says all three: which
rule (`tokenizer.ggml.pre`), which tokens, and whether they are added.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers, processors

from bench.errors import ModelLoadError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# By the names that llama.cpp gives the rules.
_GPT2 = ("gpt-2", "jina-en", "mpt", "olmo", "phi-2", "roberta-bpe")
_DIGITS = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
_LLAMA = ("falcon3", "llama-bpe", "llama-v3", "llama3")
_SPLITS = {
    **dict.fromkeys(_LLAMA, _LLAMA3),
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
_ADDS_BOS = _LLAMA[1:]  # where the file does not say, llama.cpp adds it for these


def mend_tokenizer(tokenizer: Any, fields: dict[str, Any], who: str) -> Any:
    """Give a tokenizer that transformers made of a GGUF file the file's own rules.

    Args:
        tokenizer: changed, and returned.
        fields: the file's `tokenizer.ggml.` fields, without that prefix.
        who: names the model in messages.

    Raises:
        ModelLoadError: the file's rules are not known.
    """
    backend = tokenizer.backend_tokenizer
    rule = fields.get("pre", "default")
    if fields.get("model") == "gpt2" and rule != "default":
        backend.pre_tokenizer = _pre_tokenizer(rule, who)
        backend.model.ignore_merges = rule in _LLAMA  # what is a word of the vocabulary is not put together
        backend.normalizer = normalizers.NFC() if rule == "qwen2" else normalizers.Sequence([])
    for name in ("bos", "eos", "padding", "unknown"):
        if (index := fields.get(f"{name}_token_id")) is not None:
            own = {"padding": "pad", "unknown": "unk"}.get(name, name)
            setattr(tokenizer, f"{own}_token", tokenizer.convert_ids_to_tokens(int(index)))
    adds_bos = fields.get("add_bos_token", fields.get("model") == "llama" or rule in _ADDS_BOS)
    adds_eos = fields.get("add_eos_token", False)
    parts = [
        *([tokenizer.bos_token] if adds_bos and tokenizer.bos_token else []),
        "$A",
        *([tokenizer.eos_token] if adds_eos and tokenizer.eos_token else []),
    ]
    added = [(part, tokenizer.convert_tokens_to_ids(part)) for part in parts if part != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=added)
    return tokenizer


def _pre_tokenizer(rule: str, who: str) -> Any:
    """The pre-tokenizer of a byte-level tokenizer, by the name of its rule."""
    by_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule in _GPT2:
        return by_regex
    if rule in _DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_regex])
    if rule == "falcon":
        threes = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
        marks = pre_tokenizers.Punctuation("contiguous")
        return pre_tokenizers.Sequence([marks, by_regex, pre_tokenizers.Digits(individual_digits=False), threes])
    if rule in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[rule]), "isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, plain])
    known = ", ".join(sorted({"falcon", *_GPT2, *_DIGITS, *_SPLITS}))
    raise ModelLoadError(
        f"{who}: the rule {rule!r} of the file's tokenizer is not known here (known: {known}); "
        "use the original checkpoint"
    )
