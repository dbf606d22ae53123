"""The kinds of models, and what each does its own way. Everything else is the same for all of them.

To add a kind: requests in token ids (`TokenRequest` or a class of its own), a planner that turns them into packs, a
`Forward` that returns the logits of a pack's rows, an encoder, a count of the work, and the plain way to check it by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from bench.engine import plain
from bench.engine.encode import Encoder, EncodingRules, SampleEncoder
from bench.engine.estimate import Costing, model_cost
from bench.engine.forward import Forward, PrefixCacheForward
from bench.engine.masked import plain as masked_plain
from bench.engine.masked.encode import MaskedEncoder
from bench.engine.masked.estimate import masked_cost
from bench.engine.masked.forward import MaskedForward
from bench.engine.masked.pack import MaskedRequest, plan_masked
from bench.engine.pack import Planner, TokenRequest, plan_packs
from bench.engine.seq2seq import plain as seq2seq_plain
from bench.engine.seq2seq.encode import Seq2SeqEncoder, decoder_start
from bench.engine.seq2seq.estimate import num_kept, seq2seq_cost
from bench.engine.seq2seq.forward import Seq2SeqForward
from bench.engine.seq2seq.pack import Seq2SeqRequest, plan_seq2seq
from bench.records import PromptedSample

KindName = Literal["causal", "seq2seq", "masked"]
R = TypeVar("R", bound=TokenRequest)


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """What a kind of models does its own way.

    Attributes:
        name: as a plan says it.
        likelihood: `exact`, or `pll` where what is scored is no likelihood.
        plan: turns requests into packs.
        build_encoder: from tokenizer, configuration and rules.
        cost: counts packs' work, from the model (on the meta device, too) and its configuration.
        build_forward: from a model and the most tokens of a pack; the way that serves all models of the kind.
        score_alone: scores requests one at a time, the plain way.
        tokenize: makes a sample's requests the plain way, from tokenizer, configuration and rules; and says whether
            tokens were cut.
        num_checked: requests of the start-up self-check.
        check_share: the share of their tokens that its packs may hold; with less than all, a causal model needs a
            trunk, with all, padding is needed where batches are padded.
        num_kept: numbers that stay in memory for each token of a pack while it is scored, from the configuration.
    """

    name: KindName
    likelihood: Literal["exact", "pll"]
    plan: Planner
    build_encoder: Callable[[Any, Any, EncodingRules], SampleEncoder[Any]]
    cost: Callable[[Any, Any], Costing]
    build_forward: Callable[[Any, int], Forward]
    score_alone: Callable[[Any, Sequence[R]], list[float]]
    tokenize: Callable[[Any, Any, EncodingRules, PromptedSample], tuple[list[R], bool]]
    num_checked: int
    check_share: float
    num_kept: Callable[[Any], int]


CAUSAL: Kind[TokenRequest] = Kind(
    name="causal",
    likelihood="exact",
    plan=plan_packs,
    build_encoder=lambda tokenizer, _, rules: Encoder(tokenizer, rules),
    cost=model_cost,
    build_forward=PrefixCacheForward,
    score_alone=plain.score_alone,
    tokenize=plain.tokenize,
    num_checked=3,
    check_share=0.5,
    num_kept=lambda _: 0,
)
SEQ2SEQ: Kind[Seq2SeqRequest] = Kind(
    name="seq2seq",
    likelihood="exact",
    plan=plan_seq2seq,
    build_encoder=lambda tokenizer, config, rules: Seq2SeqEncoder(tokenizer, rules, decoder_start(config)),
    cost=seq2seq_cost,
    build_forward=lambda model, _: Seq2SeqForward(model),
    score_alone=seq2seq_plain.score_alone,
    tokenize=seq2seq_plain.tokenize,
    num_checked=6,
    check_share=1.0,
    num_kept=num_kept,
)
MASKED: Kind[MaskedRequest] = Kind(
    name="masked",
    likelihood="pll",
    plan=plan_masked,
    build_encoder=lambda tokenizer, _, rules: MaskedEncoder(tokenizer, rules),
    cost=masked_cost,
    build_forward=lambda model, _: MaskedForward(model),
    score_alone=masked_plain.score_alone,
    tokenize=masked_plain.tokenize,
    num_checked=6,
    check_share=1.0,
    num_kept=lambda _: 0,
)
KINDS: Mapping[str, Kind[Any]] = {kind.name: kind for kind in (CAUSAL, SEQ2SEQ, MASKED)}
"""All kinds, by name."""
