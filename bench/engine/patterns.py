r"""Which characters a pre-tokenizer's regular expression can match side by side, decided from the expression itself.

An expression is read into its items (literals, classes) and into which item can follow which inside a match, as in
Glushkov's construction of an automaton. If no item that takes x can be followed by one that takes y, then no attempt
to match, successful or not, ever passes from an x to a y, whatever stands around them. So a text cut between the two
has the same matches on the left, and, since nothing here looks back, the same on the right.

Read are the constructs that tokenizers use: literals, classes, groups, alternatives, greedy quantifiers and the
look-ahead `(?!\S)`. Anything else (anchors, look-behind, back-references, other look-ahead, lazy or possessive
quantifiers) makes an expression unreadable here, and its tokenizer encodes whole texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import product

from tokenizers import Regex, pre_tokenizers

_ITEM = re.compile(
    r"\\[pP]\{\^?\w+\}|\\[sSdDwWnrtfv]|\\[^\w\s]"  # \p{L}, \s, \.
    r"|\[(?:\\.|[^\[\]\\]|\[(?:\\.|[^\[\]\\])*\])+\]"  # a class, with classes inside it
    r"|[^\\\[\](){}|?*+^$]"
)
_FOLDABLE = re.compile(r"[ -~]|\[[a-zA-Z]+\]")  # what has no multi-character case variants
_QUANTIFIER = re.compile(r"(?:[?*+]|\{(?P<least>\d+)(?:,\d*)?\})(?![?*+{])")
_LOOK_AHEAD = r"(?!\S)"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is known of a readable regular expression.

    Attributes:
        neighbours: pairs of items the second of which can follow the first inside a match.
        before_look_ahead: items after which the character that follows is looked at.
        alone: items that are a match by themselves.
    """

    neighbours: frozenset[tuple[str, str]]
    before_look_ahead: frozenset[str]
    alone: frozenset[str]

    def is_crossed(self, left: str, right: str) -> bool:
        """Whether matching may depend on `right` following `left`."""
        if any(_takes(item, left) for item in self.before_look_ahead):
            return True
        return any(_takes(one, left) and _takes(other, right) for one, other in self.neighbours)

    def always_matches(self, character: str) -> bool:
        """Whether there is a match wherever one begins at `character`."""
        return any(_takes(item, character) for item in self.alone)


def read_pattern(expression: str) -> Pattern | None:
    """Read a regular expression in Oniguruma's syntax; None if it is not certain what it matches."""
    reader = _Reader(expression)
    try:
        whole = reader.alternatives(is_folded=False)
    except ValueError:
        return None
    ahead = {place for place, item in enumerate(reader.items) if item == _LOOK_AHEAD}
    if not reader.is_done or whole.is_nullable or whole.first & ahead or any(a in ahead for a, _ in reader.follows):
        return None
    items = reader.items
    return Pattern(
        neighbours=frozenset((items[a], items[b]) for a, b in reader.follows if b not in ahead),
        before_look_ahead=frozenset(items[a] for a, b in reader.follows if b in ahead),
        alone=frozenset(items[place] for place in (whole.first & whole.last) - reader.counted),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an expression: the items (by place) its matches begin and end with, and whether one may be empty."""

    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    is_nullable: bool = True


class _Reader:
    def __init__(self, expression: str) -> None:
        self.text = expression
        self.place = 0
        self.items: list[str] = []
        self.follows: set[tuple[int, int]] = set()
        self.counted: set[int] = set()  # under a quantifier that asks for two or more

    @property
    def is_done(self) -> bool:
        return self.place == len(self.text)

    def alternatives(self, *, is_folded: bool) -> _Part:
        parts = [self._sequence(is_folded)]
        while self._take("|"):
            parts.append(self._sequence(is_folded))
        return _Part(
            frozenset().union(*(part.first for part in parts)),
            frozenset().union(*(part.last for part in parts)),
            any(part.is_nullable for part in parts),
        )

    def _sequence(self, is_folded: bool) -> _Part:
        whole = _Part()
        while not self.is_done and self.text[self.place] not in "|)":
            part = self._quantified(self._atom(is_folded))
            self.follows |= set(product(whole.last, part.first))
            whole = _Part(
                whole.first | part.first if whole.is_nullable else whole.first,
                whole.last | part.last if part.is_nullable else part.last,
                whole.is_nullable and part.is_nullable,
            )
        return whole

    def _quantified(self, part: _Part) -> _Part:
        found = _QUANTIFIER.match(self.text, self.place)
        if found is None:
            return part
        self.place = found.end()
        if found[0] != "?":
            self.follows |= set(product(part.last, part.first))
        least = int(found["least"] or (1 if found[0] == "+" else 0))
        if least > 1:
            self.counted |= part.first
        return _Part(part.first, part.last, part.is_nullable or least == 0)

    def _atom(self, is_folded: bool) -> _Part:
        if self._take(_LOOK_AHEAD):
            return self._item(_LOOK_AHEAD)
        for opening in ("(?:", "(?i:", "("):
            if self._take(opening):
                part = self.alternatives(is_folded=is_folded or opening == "(?i:")
                if not self._take(")"):
                    raise ValueError("a group is not closed")
                return part
        found = _ITEM.match(self.text, self.place)
        if found is None or (is_folded and not _FOLDABLE.fullmatch(found[0])):
            raise ValueError(f"not read: {self.text[self.place :]}")
        self.place = found.end()
        return self._item(f"(?i:{found[0]})" if is_folded else found[0])

    def _item(self, item: str) -> _Part:
        self.items.append(item)
        place = frozenset({len(self.items) - 1})
        return _Part(place, place, is_nullable=False)

    def _take(self, text: str) -> bool:
        is_here = self.text.startswith(text, self.place)
        self.place += len(text) if is_here else 0
        return is_here


@cache
def _takes(item: str, character: str) -> bool:
    """Whether an item matches a character, by the tokenizers' own regular expressions."""
    return not pre_tokenizers.Split(Regex(item), "removed").pre_tokenize_str(character)
