"""What a plan says of `bench speed`: the section `speed`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, model_validator

from bench.schema import Many, StrictModel

_Positive = Annotated[int, Field(ge=1)]
_Sweep = Annotated[Many[_Positive], Field(min_length=1)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _refuse_repeats(spec: StrictModel, names: Iterable[str]) -> None:
    for name in names:
        values = getattr(spec, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} has a number twice")


class Objective(StrictModel):
    """What an answer must keep to for goodput; what is not given is kept by any.

    Attributes:
        ttft_s: until its first piece.
        tpot_s: for each token after the first.
        latency_s: until its last piece.
    """

    ttft_s: _Seconds | None = None
    tpot_s: _Seconds | None = None
    latency_s: _Seconds | None = None


class ServedSpec(StrictModel):
    """Which loads are put on a server or an API, and with what requests.

    Attributes:
        concurrencies: so many requests always under way, a new one as soon as one has ended.
        request_rates: so many requests a second at random moments (a Poisson process), whether or not earlier ones
            have been answered.
        prompt_tokens: of each prompt, about; what it really has is the server's count.
        completion_tokens: the most of each completion; that it has no fewer is for a server's own options to say, such
            as `api: {extra_body: {ignore_eos: true}}` of vLLM and SGLang.
        num_requests: of each point, without those of warm-up.
        max_s: no more are sent after so many seconds; None: until all are.
        warm_up_requests: sent before each point, and part of no figure but the cost.
        objective: what counts as good.
        seed: of words and moments.
        tokenizer: a folder or hub repository whose tokenizer counts the tokens of a server that does not.
    """

    concurrencies: Many[Annotated[int, Field(ge=1, le=1000)]] = (1, 4, 16)
    request_rates: Many[_Seconds] = ()
    prompt_tokens: Annotated[int, Field(ge=16)] = 512
    completion_tokens: _Positive = 128
    num_requests: _Positive = 64
    max_s: _Seconds | None = None
    warm_up_requests: Annotated[int, Field(ge=0)] = 4
    objective: Objective = Objective()
    seed: Annotated[int, Field(ge=0)] = 0
    tokenizer: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ServedSpec:
        if not self.concurrencies and not self.request_rates:
            raise ValueError("both concurrencies and request_rates are empty, so there is nothing to measure")
        _refuse_repeats(self, ("concurrencies", "request_rates"))
        return self


class SpeedSpec(StrictModel):
    """Which points are measured, and for how long.

    Attributes:
        prompt_lengths: tokens of a prompt, for prefill.
        batch_sizes: of prefill and decode.
        contexts: tokens that are in the cache when decoding begins.
        decode_tokens: tokens that are decoded on a context, one at a time, before it is set up anew.
        min_s: a point is measured for at least this long,
        repeats: and at least this often; fewer than 6 values have no 95 % interval of their median.
        max_s: the seconds after which a point ends although its interval is still wide.
        tightness: half the interval's width, as a share of the median, below which a point ends.
        served: of models behind an API, for which it stands in place of all the above.
    """

    prompt_lengths: _Sweep = (128, 512)
    batch_sizes: _Sweep = (1, 4)
    contexts: _Sweep = (128, 512)
    decode_tokens: _Positive = 16
    min_s: _Seconds = 1.0
    repeats: Annotated[int, Field(ge=6)] = 7
    max_s: _Seconds = 10.0
    tightness: _Seconds = 0.05
    served: ServedSpec = ServedSpec()

    @model_validator(mode="after")
    def _check(self) -> SpeedSpec:
        _refuse_repeats(self, ("prompt_lengths", "batch_sizes", "contexts"))
        if self.max_s < self.min_s:
            raise ValueError(f"max_s {self.max_s} is less than min_s {self.min_s}")
        return self
