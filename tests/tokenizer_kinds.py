"""Small tokenizers of the kinds that models come with, trained here on a text of our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = """\
The lighthouse keeper counted 1234 gulls, 56 boats and 7 bells before breakfast. "They're late," she said; 'we'll
wait until 08:30, won't we?' Nobody answered. The kettle whistled (as it always did), and the fog -- grey, slow,
patient -- rolled over the rocks...

Question: Which of these floats?
A. a stone
B. a cork
C. an anchor
D. 3.14 kg of lead
Answer: B

Question: What's 12 + 30?
\tA) 42\tB) 1,230
  - I'd say it's 42!  You've known that, hadn't you?
Answer: A

def keep(lamp):
    if lamp.is_lit:
        return lamp  # it's fine
    raise ValueError("no light\\n")

Größe, café, naïve; 灯台守は 1234 羽のカモメを数えた。Ещё раз: волны, ветер и соль. ½ + ¼ ≠ 1️⃣ 👩‍🚀
"""
AWKWARD = [
    "a", "b", "e", "s", "t", "ll", "re", "ve", "d", "Z", "The", "boat", "Answer", "1", "23", "456", "7890",
    " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\x0b",
    "'", "'s", "'re", "'LL", '"', ".", "...", ",", ":", ";", "!", "?", "(", ")", "[", "/", "-", "--", "_", "#", "<",
    ">", "é", "e\u0301", "ß", "İ", "ſ", "Größe", "中", "灯台", "。", "я", "½", "１",
    "👩‍🚀", "\u200d", "\x00", "</s>", "<s>",
]  # fmt: skip
"""Pieces of text that tokenizers treat in different ways; awkward texts are put together from them."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join((
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
))  # fmt: skip
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

Part = Any  # a normaliser or pre-tokenizer; the library's stubs name no common base


def byte_level(*before: Part, uses_regex: bool = False, after: tuple[Part, ...] = ()) -> Part:
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=uses_regex)
    return pre_tokenizers.Sequence([*before, own, *after])


def split(pattern: str) -> Part:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def train_bpe(pre_tokenizer: Part, normalizer: Part = None, size: int = 500, **model: Any) -> Tokenizer:
    """Byte-level BPE."""
    backend = Tokenizer(models.BPE(**model))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return backend


def train_sentencepiece(normalizer: Part, pre_tokenizer: Part = None, *, crosses_words: bool = False) -> Tokenizer:
    """BPE as converted from SentencePiece: spaces are letters, what is unknown falls back to bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=not crosses_words)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False, max_token_length=12)
    backend.train_from_iterator(TEXT.replace("½", "").splitlines(), trainer)
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    return backend


def adds(backend: Tokenizer, template: str) -> Tokenizer:
    """Let a tokenizer add special tokens as `template` says, `$A` being the text."""
    names = [name for name in template.split() if name != "$A"]
    specials = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return backend


def train_wordpiece(template: str = "$A") -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=30))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return adds(backend, template)


def train_unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return adds(backend, "$A")


def train_word_ends() -> Tokenizer:
    """BPE that marks the ends of words, as GPT-1 and CLIP do."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return backend


def with_added(backend: Tokenizer, *tokens: str | AddedToken) -> Tokenizer:
    backend.add_tokens(list(tokens))
    return backend


_LLAMA2 = (normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"))

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: train_bpe(byte_level(uses_regex=True)),
    "gpt2_prefix_space": lambda: train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama3": lambda: adds(train_bpe(byte_level(split(LLAMA3)), ignore_merges=True), "<s> $A"),
    "qwen2": lambda: train_bpe(byte_level(split(QWEN2)), normalizers.NFC()),
    "o200k": lambda: train_bpe(byte_level(split(O200K))),
    "bloom": lambda: train_bpe(byte_level(split(BLOOM))),
    "starcoder": lambda: train_bpe(byte_level(pre_tokenizers.Digits(True), uses_regex=True)),
    "falcon": lambda: train_bpe(
        byte_level(
            pre_tokenizers.Punctuation("contiguous"),
            uses_regex=True,
            after=(pre_tokenizers.Digits(False), split("[0-9][0-9][0-9]")),
        )
    ),
    "neox_spaces": lambda: with_added(train_bpe(byte_level(uses_regex=True)), *(" " * n for n in range(2, 9))),
    "stripping": lambda: with_added(
        train_bpe(byte_level(split(LLAMA3))), AddedToken("<mask>", lstrip=True), AddedToken("<end>", rstrip=True)
    ),
    "llama2": lambda: adds(train_sentencepiece(normalizers.Sequence(list(_LLAMA2))), "<s> $A"),
    "across_words": lambda: train_sentencepiece(normalizers.Sequence(list(_LLAMA2)), crosses_words=True),
    "metaspace": lambda: train_sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace_split": lambda: train_sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "gemma": lambda: adds(
        train_sentencepiece(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")), "<s> $A"
    ),
    "wordpiece": train_wordpiece,
    "bert": lambda: train_wordpiece("[CLS] $A [SEP]"),
    "word_ends": train_word_ends,
    "unigram": train_unigram,
}
"""How each kind is made, by the model it is known from."""


@cache
def backend_of(kind: str) -> Tokenizer:
    return KINDS[kind]()


def tokenizer_of(kind: str) -> Any:
    """A transformers tokenizer of its own, with `<s>` for BOS."""
    backend = Tokenizer.from_str(backend_of(kind).to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
