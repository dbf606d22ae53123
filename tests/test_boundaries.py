from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_kinds import (
    AWKWARD,
    BLOOM,
    GPT2,
    KINDS,
    LLAMA3,
    O200K,
    QWEN2,
    TEXT,
    adds,
    backend_of,
    byte_level,
    split,
    train_bpe,
    train_sentencepiece,
    with_added,
)
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from bench.engine.boundaries import Boundaries
from bench.engine.patterns import read_pattern

APPENDING = "bert"  # puts a token after each text; the encoder shares nothing there
SHARING = sorted(set(KINDS) - {"unigram", APPENDING})
texts = st.lists(st.sampled_from(AWKWARD), max_size=10).map("".join)


def encode(backend: Tokenizer, text: str, *, special: bool = False) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=special).ids
    return ids


def check_cuts(backend: Tokenizer, text: str) -> int:
    """Encode `text` in two parts at each place called safe, as the encoder does; returns how many there are."""
    boundaries = Boundaries(backend)
    places = [place for place in range(1, len(text)) if boundaries.is_safe(text[place - 1], text[place])]
    for place in places:
        anchor = text[place - 1]
        tail = encode(backend, text[place - 1 :])[len(encode(backend, anchor)) :]
        in_two = encode(backend, text[:place], special=True) + tail
        assert in_two == encode(backend, text, special=True), (text[:place], text[place:])
    return len(places)


@pytest.mark.parametrize("kind", SHARING)
@given(texts)
@example("they're '' ' 're''ve we'll I'D")
@example("a  b   c\t\td\n\n  e \n f\r\n\r\ng    ")
@example("1234567 12 34.5678")
@example("<s>'re</s> b</s>\n<s>12")
@example("a <mask>  b<end>  c <mask><end> ")
def test_cutting_where_it_is_safe_changes_no_token(kind: str, text: str) -> None:
    check_cuts(backend_of(kind), text)


@pytest.mark.parametrize("kind", SHARING)
def test_prompts_can_be_cut(kind: str) -> None:
    boundaries = Boundaries(backend_of(kind))
    assert boundaries.is_known
    assert boundaries.is_safe("B", "\n")
    assert check_cuts(backend_of(kind), TEXT) > 50
    shared = "Answer: B\n\nQuestion: 7?\nAnswer: A\n\n"
    assert boundaries.last_safe_cut(shared) == len(shared) - 2
    if kind != "across_words":  # its vocabulary has a token for a colon and a blank
        assert boundaries.is_safe(":", " ")


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [
        ("gpt2", "'", "r"),  # 're is one piece
        ("gpt2", " ", "B"),  # the last of several blanks belongs to the word
        ("gpt2", "\n", "\n"),
        ("gpt2", "7", "8"),
        ("gpt2_prefix_space", ">", "\n"),  # after </s> a new text begins
        ("llama3", "8", "9"),  # digits come in threes, counted from the left
        ("llama3", ".", "\n"),  # line ends belong to the signs before them
        ("o200k", "/", "/"),
        ("bloom", "!", " "),  # neither is matched: a gap may hold both, and the vocabulary joins them
        ("falcon", "7", "8"),
        ("across_words", ":", " "),  # merged across words
        ("llama2", "a", "t"),
        ("wordpiece", "b", "x"),  # no entry holds them, but one piece does, which may be unknown as a whole
        ("word_ends", "b", "x"),
    ],
)
def test_where_it_is_not_safe(kind: str, left: str, right: str) -> None:
    assert not Boundaries(backend_of(kind)).is_safe(left, right)


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3, QWEN2, O200K, BLOOM, r"[\r\n]", r"\s?\p{P}+", "[0-9][0-9][0-9]"])
def test_patterns_of_common_tokenizers_are_read(pattern: str) -> None:
    assert read_pattern(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<=\n)[^\n]+|[^\n]",  # the suspect: a look-behind beside a negated class
        r"(?<!\d)\d|[^\d]+",
        r"^[^\s]+|\s+|\S+",
        r"[^\s]+$|\s+|\S",
        r"\b\w+|[^\w]",
        r"\B\w|[^x]",
        r"\A[^a]+|a",
        r"\G[^a]|a",
        r"a\K[^a]|.",
        r"([ab])\1|[^ab]",
        r"[^a]+(?=b)|.",
        r"[^a]++|a",
        r"[^a]+?|a",
        r"(?>[^a]+)|a",
        r"(?i:ß)|[^s]",
        r"(?i)s|[^s]",
        r"[^a]*",
        r"(?!\S)[^a]|a",
        r"\X|[^a]",
        "",
        "[^a]+|(b",
        "a)",
    ],
)
def test_what_looks_elsewhere_is_not_read(pattern: str) -> None:
    assert read_pattern(pattern) is None


@pytest.mark.parametrize(
    ("expression", "pair", "is_crossed"),
    [
        ("ab|c", "ab", True),
        ("ab|c", "bc", False),
        ("ab|c", "ca", False),
        ("ab?c", "ac", True),
        ("ab+c", "ac", False),
        ("(?:ab|c)+", "ca", True),
        ("(?:ab|c)+", "bb", False),
        ("(ab){1,3}", "ba", True),
        ("(ab)?c", "bc", True),
        ("(?i:ab)|c", "AB", True),
        ("(?i:[ab])c|d", "Bc", True),
        (r"[^\s[ab]]+|.", "xa", False),
        (r"[^\s[ab]]+|.", "xy", True),
        (r"x+(?!\S)|.", "xy", True),  # what follows is looked at
        (r"x+(?!\S)|.", "yx", False),
    ],
)
def test_what_a_pattern_can_match_side_by_side(expression: str, pair: str, is_crossed: bool) -> None:
    pattern = read_pattern(expression)
    assert pattern is not None
    assert pattern.is_crossed(*pair) is is_crossed


@pytest.mark.parametrize(
    ("expression", "matched", "other"),
    [("ab|c", "c", "a"), ("a+", "a", "b"), ("a{2}|b", "b", "a"), (r"a+(?!\S)|b", "b", "a"), ("a?b", "b", "a")],
)
def test_what_a_pattern_always_matches(expression: str, matched: str, other: str) -> None:
    pattern = read_pattern(expression)
    assert pattern is not None
    assert pattern.always_matches(matched)
    assert not pattern.always_matches(other)


_ATOMS = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", "[^ab]", ".", r"\S", "(?i:b)"])


def _longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    quantified = st.builds("(?:{}){}".format, inner, st.sampled_from(["", "?", "*", "+", "{2}", "{1,2}"]))
    return st.one_of(
        quantified, st.builds("{}{}".format, quantified, quantified), st.builds("{}|{}".format, inner, inner)
    )


@given(
    st.recursive(_ATOMS, _longer, max_leaves=6),
    st.sampled_from(["", r"|\s+(?!\S)|.", "|.", r"|a+(?!\S)"]),
    st.text("abc ", max_size=6),
    st.text("abc ", max_size=6),
)
def test_a_cut_between_what_no_match_crosses_changes_no_piece(expression: str, rest: str, head: str, tail: str) -> None:
    """Any expression of the kinds that are read, against the regular expression engine itself."""
    pattern = read_pattern(expression + rest)
    if pattern is None or not head or not tail or pattern.is_crossed(head[-1], tail[0]):
        return
    stage = pre_tokenizers.Split(Regex(expression + rest), "isolated")

    def ends(text: str, start: int = 0) -> set[int]:
        return {start + stop for _, (_, stop) in stage.pre_tokenize_str(text)}

    whole = ends(head + tail)
    assert whole | {len(head)} == ends(head) | ends(tail, len(head))
    if pattern.always_matches(head[-1]) or pattern.always_matches(tail[0]):
        assert len(head) in whole


def test_a_vocabulary_entry_across_the_cut_makes_it_unsafe() -> None:
    """Where no pre-tokenizer parts them, only the vocabulary can."""
    backend = train_sentencepiece(normalizers.Replace(" ", "▁"))
    assert Boundaries(backend).is_safe("B", "\n")
    text = backend.to_str()
    index = backend.get_vocab_size()
    joined = Tokenizer.from_str(text.replace('"vocab":{', f'"vocab":{{"B\\n":{index},', 1))
    assert not Boundaries(joined).is_safe("B", "\n")


@pytest.mark.parametrize("token", ["B\n", "Answer: B\n\n", "\n\nB\nA"])
def test_an_added_token_across_the_cut_makes_it_unsafe(token: str) -> None:
    backend = with_added(train_bpe(byte_level(uses_regex=True)), token)
    boundaries = Boundaries(backend)
    assert not boundaries.is_safe("B", "\n")
    assert boundaries.is_safe("C", "\n")
    check_cuts(backend, "Answer: B\n\nQuestion\n\nB\nAnswer: B\n\n")


def test_an_added_token_is_looked_for_as_it_is_normalised() -> None:
    backend = train_bpe(byte_level(uses_regex=True), normalizers.Lowercase())
    backend.add_tokens([AddedToken("B X", normalized=True)])
    assert not Boundaries(backend).is_safe("b", " ")
    check_cuts(backend, "a b x B X")


@pytest.mark.parametrize(
    "backend",
    [
        train_bpe(byte_level(split(r"(?<=\n)[^\n]+|[^\n]+|\n"))),
        train_bpe(byte_level(uses_regex=True), normalizers.Replace(Regex(" +"), " ")),
        train_bpe(byte_level(uses_regex=True), normalizers.Replace("\n\n", "\n")),
        train_bpe(byte_level(uses_regex=True), normalizers.Strip()),
        train_bpe(byte_level(pre_tokenizers.UnicodeScripts())),
        train_bpe(byte_level(pre_tokenizers.Split(Regex(GPT2), "merged_with_previous"))),
        train_bpe(byte_level(uses_regex=True), dropout=0.1),
    ],
    ids=["look-behind", "replace by expression", "replace two", "strip", "scripts", "merged", "dropout"],
)
def test_tokenizers_with_parts_that_look_further_are_not_cut(backend: Tokenizer) -> None:
    boundaries = Boundaries(backend)
    assert not boundaries.is_known
    assert not boundaries.is_safe("B", "\n")
    assert boundaries.last_safe_cut("Answer: B\n\n") == 0


def test_characters_beyond_ascii_are_not_cut() -> None:
    """Letters and their accents may be one character after normalisation."""
    boundaries = Boundaries(adds(train_bpe(byte_level(split(QWEN2)), normalizers.NFC()), "<s> $A"))
    assert not boundaries.is_safe("é", "\n")
    assert not boundaries.is_safe("B", "\u0301")
    assert boundaries.last_safe_cut("B\n大\n") == 1
