"""Where a text can be cut so that encoding the pieces gives the tokens of the whole.

Forty megabytes of five-shot prompts are mostly one text per subject, repeated. Encoding that text once needs a proof
that tokens do not cross the cut. It is given for a pair of neighbouring ASCII characters x|y when

1. nothing before the tokenizer's model looks further than characters do: the normaliser maps single characters, and
   the pre-tokenizer is of a known kind whose patterns have no look-behind, so that it starts afresh after each piece;
2. either the pre-tokenizer ends a piece between x and y whatever stands around them (tried on all short surroundings
   made of one member of each character class), or no entry of the vocabulary contains x followed by y, so that no
   merge and no piece can join them;
3. no added token contains x followed by y or swallows the white space beside it.

Where that cannot be shown, whole texts are encoded. The encoder compares a sample of its results with whole texts in
either case.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from tokenizers import Tokenizer

_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "BertNormalizer", "ByteLevel"}
_KNOWN_PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
_SURROUNDINGS = ("", "a", "Z", "é", "中", "7", "'", ".", "/", " ", "\n", "\t", "'s", " \n", "\r\n", "  ")
_SPACE_MARKS = {" ": " Ġ▁", "\n": "\nĊ"}  # how vocabularies spell them: byte-level, SentencePiece


class Boundaries:
    """Answers, for one tokenizer, where texts may be cut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        spec = json.loads(tokenizer.to_str())
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._entries = tokenizer.get_vocab(with_added_tokens=False)
        self._added = [token["content"] for token in spec["added_tokens"]]
        self._is_known = (
            spec["model"]["type"] in {"BPE", "WordPiece"}
            and all(_is_local(part) for part in _parts(spec["normalizer"], "normalizers"))
            and all(_is_restarting(part) for part in _parts(spec["pre_tokenizer"], "pretokenizers"))
            and not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in spec["added_tokens"])
        )
        self._pairs: dict[tuple[str, str], bool] = {}

    def is_safe(self, left: str, right: str) -> bool:
        """Whether any text may be cut between the characters `left` and `right`."""
        if not self._is_known or not (left.isascii() and right.isascii()):
            return False
        if (left, right) not in self._pairs:
            self._pairs[left, right] = not self._joins(self._added, left, right) and (
                self._always_splits(left, right) or not self._joins(self._entries, left, right)
            )
        return self._pairs[left, right]

    def last_safe_cut(self, text: str) -> int:
        """Return the last place where `text` may be cut, 0 if there is none."""
        for place in range(len(text) - 1, 0, -1):
            if self.is_safe(text[place - 1], text[place]):
                return place
        return 0

    def _always_splits(self, left: str, right: str) -> bool:
        if self._pre_tokenizer is None:
            return False
        for before, after in product(_SURROUNDINGS, repeat=2):
            head, tail = before + left, right + after
            pieces = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(head + tail)]
            alone = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(head)]
            after_anchor = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(left + tail)]
            anchor = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(left)]
            if after_anchor[: len(anchor)] != anchor or pieces != alone + after_anchor[len(anchor) :]:
                return False
        return True

    @staticmethod
    def _joins(entries: Any, left: str, right: str) -> bool:
        pairs = [x + y for x in _SPACE_MARKS.get(left, left) for y in _SPACE_MARKS.get(right, right)]
        pairs += [pair.lower() for pair in pairs]
        return any(pair in entry for entry in entries for pair in pairs)


def _parts(spec: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Flatten a possibly nested sequence of normalisers or pre-tokenizers."""
    if spec is None:
        return []
    if spec["type"] == "Sequence":
        return [part for inner in spec[key] for part in _parts(inner, key)]
    return [spec]


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return len(normalizer["pattern"].get("String", "too long")) == 1
    return normalizer["type"] in _LOCAL_NORMALIZERS


def _is_restarting(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "Split":
        pattern = pre_tokenizer["pattern"].get("Regex", "")
        return not any(mark in pattern for mark in ("(?<", "^", r"\b", r"\B", r"\A", r"\G", r"\K")) or "[^" in pattern
    return pre_tokenizer["type"] in _KNOWN_PRE_TOKENIZERS
