"""Where a text can be cut so that encoding the pieces gives the tokens of the whole.

Forty megabytes of five-shot prompts are mostly one text per subject, repeated. Encoding that text once needs a proof
that nothing a tokenizer does passes over the cut. It is given for a pair of neighbouring ASCII characters x|y, of
which x is no white space, by following them through the tokenizer:

1. Added tokens are found first: none may contain x followed by y, or end in x (what follows a token is treated as the
   start of a text, by some). White space that they swallow lies on y's side.
2. The normaliser maps single characters.
3. Each stage of the pre-tokenizer either looks at single characters and their neighbours, or at a regular expression
   that cannot match across x|y (`patterns`). If one stage always ends a piece between them, the pieces on both sides
   are the whole's, and the tokenizer's model sees one piece at a time.
4. Where no stage does (SentencePiece's have none), byte pairs are still not merged across x|y if no entry of the
   vocabulary contains x followed by y.

What follows a cut is encoded with x before it, whose tokens are dropped, so that it is not the start of a text.
Where that cannot be shown, whole texts are encoded. The encoder compares a sample of its results with whole texts in
either case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from bench.engine.patterns import Pattern, read_pattern

_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "BertNormalizer", "ByteLevel"}
_LOCAL_PRE_TOKENIZERS = {"BertPreTokenizer", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit"}
_BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # its built-in one
_SPACE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of a pre-tokenizer, as far as two neighbouring characters are concerned.

    Attributes:
        pattern: the regular expression it matches, None if it looks at neighbours only.
        ends: for a stage without pattern, whether it ends a piece between two characters.
        maps: what a character becomes.
    """

    pattern: Pattern | None
    ends: Callable[[str, str], bool]
    maps: Callable[[str], str]


class Boundaries:
    """Answers, for one tokenizer, where texts may be cut.

    Attributes:
        is_known: whether all of the tokenizer's parts are understood; otherwise no cut is safe.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        spec = json.loads(tokenizer.to_str())
        normalizers = list(_parts(spec["normalizer"], "normalizers"))
        stages = [_stage(part) for part in _parts(spec["pre_tokenizer"], "pretokenizers")]
        self._stages = [stage for stage in stages if stage is not None]
        self._normalizer = tokenizer.normalizer
        self._entries = tokenizer.get_vocab(with_added_tokens=False)
        self._added = [token["content"] for token in spec["added_tokens"]]
        self._added += [self._normalized(token) for token in self._added]
        self._model = spec["model"]
        self.is_known = (
            self._model["type"] in {"BPE", "WordPiece"}
            and not self._model.get("dropout")
            and all(map(_is_local, normalizers))
            and None not in stages
        )
        self._pairs: dict[tuple[str, str], bool] = {}

    def is_safe(self, left: str, right: str) -> bool:
        """Whether any text may be cut between the characters `left` and `right`."""
        if not self.is_known or left.isspace() or not (left.isascii() and right.isascii()):
            return False
        if (left, right) not in self._pairs:
            self._pairs[left, right] = self._is_uncrossed(left, right)
        return self._pairs[left, right]

    def last_safe_cut(self, text: str) -> int:
        """Return the last place where `text` may be cut, 0 if there is none."""
        for place in range(len(text) - 1, 0, -1):
            if self.is_safe(text[place - 1], text[place]):
                return place
        return 0

    def _is_uncrossed(self, left: str, right: str) -> bool:
        start = len(self._normalized("a"))
        pairs = [(left, right), (self._normalized("a" + left)[start:], self._normalized("a" + right)[start:])]
        if any(x + y in token or token.endswith(x) for x, y in pairs for token in self._added):
            return False
        left, right = pairs[1]
        if (len(left), len(right)) != (1, 1):
            return False
        for stage in self._stages:
            if stage.pattern is not None and stage.pattern.is_crossed(left, right):
                return False
            if stage.ends(left, right):
                return True
            left, right = stage.maps(left), stage.maps(right)
        return self._is_unmerged(left, right)

    def _is_unmerged(self, left: str, right: str) -> bool:
        """Whether byte-pair merging alone keeps two characters apart."""
        model = self._model
        has_marks = any(
            model.get(name) for name in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
        )
        if model["type"] != "BPE" or has_marks or not (self._is_entry(left) and self._is_entry(right)):
            return False  # unknown characters may be fused into one
        return not any(left + right in entry for entry in self._entries)

    def _is_entry(self, character: str) -> bool:
        as_byte = f"<0x{ord(character):02X}>"
        return character in self._entries or (self._model["byte_fallback"] and as_byte in self._entries)

    def _normalized(self, text: str) -> str:
        return text if self._normalizer is None else str(self._normalizer.normalize_str(text))


def _parts(spec: dict[str, Any] | None, key: str) -> Iterable[dict[str, Any]]:
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


def _stage(part: dict[str, Any]) -> _Stage | None:
    """Describe one stage of a pre-tokenizer; None if it is not known to be harmless."""
    kind, pattern = part["type"], None
    if kind in _LOCAL_PRE_TOKENIZERS or (kind == "Split" and len(part["pattern"].get("String", "")) == 1):
        alone = _built(part)

        def ends(left: str, right: str) -> bool:
            return all(stop <= 1 or start >= 1 for _, (start, stop) in alone.pre_tokenize_str(left + right))

        space = part.get("replacement", " ") if kind == "Metaspace" else " "
        return _Stage(None, ends, lambda character: character.replace(" ", space))
    if kind == "ByteLevel":
        if not part["use_regex"]:
            return _Stage(None, lambda left, right: False, _byte_level)  # noqa: ARG005
        pattern = read_pattern(_BYTE_LEVEL)
    elif kind == "Split" and part["behavior"] in {"Isolated", "Removed"}:
        pattern = read_pattern(part["pattern"].get("Regex", ""))
    if pattern is None:
        return None
    always = pattern.always_matches
    maps = _byte_level if kind == "ByteLevel" else str
    return _Stage(pattern, lambda left, right: always(left) or always(right), maps)


def _built(part: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    spec = {**json.loads(Tokenizer(models.BPE()).to_str()), "pre_tokenizer": part}
    made: pre_tokenizers.PreTokenizer = Tokenizer.from_str(json.dumps(spec)).pre_tokenizer
    return made


def _byte_level(character: str) -> str:
    """How byte-level tokenizers spell an ASCII character."""
    return str(_SPACE_LEVEL.pre_tokenize_str(character)[0][0])
