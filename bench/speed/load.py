"""Loads of a server: so many requests at once, or so many a second; and what each request says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench.records import Message
from bench.speed.spec import ServedSpec


@dataclass(frozen=True, slots=True)
class Load:
    """One point of a sweep over loads; one of the first two is None.

    Attributes:
        concurrency: requests that are always under way (a closed loop).
        request_rate_per_s: requests a second, whatever becomes of earlier ones (an open loop).
        prompt_tokens: of each prompt, about.
        completion_tokens: of each completion, at most.
    """

    concurrency: int | None
    request_rate_per_s: float | None
    prompt_tokens: int
    completion_tokens: int

    @property
    def key(self) -> str:
        """Its name in the journal."""
        how = f"{self.request_rate_per_s:g}/s" if self.concurrency is None else str(self.concurrency)
        return f"served {how} x {self.prompt_tokens}+{self.completion_tokens}"

    def describe(self) -> dict[str, float]:
        """Which load it is, as the journal has it."""
        if self.concurrency is not None:
            return {"concurrency": self.concurrency}
        assert self.request_rate_per_s is not None
        return {"request_rate_per_s": self.request_rate_per_s}


def plan_loads(spec: ServedSpec) -> Iterator[Load]:
    """The points of a sweep: closed loops, then open ones."""
    for concurrency in spec.concurrencies:
        yield Load(concurrency, None, spec.prompt_tokens, spec.completion_tokens)
    for rate in spec.request_rates:
        yield Load(None, rate, spec.prompt_tokens, spec.completion_tokens)


def arrivals(rate_per_s: float, seed: int) -> Iterator[float]:
    """Moments at which requests are due, in seconds: a Poisson process seen from its first arrival, without end."""
    chance = random.Random(f"arrivals:{seed}:{rate_per_s!r}")
    moment = 0.0
    while True:
        yield moment
        moment += chance.expovariate(rate_per_s)


class Words:
    """Prompts of common English words at random, which cost a server as much as any others.

    Each begins with a mark of its own, so that no cache of prefixes answers for it; the mark is of the sitting, not of
    the seed, since the same plan may have been measured before.

    Args:
        seed: of the words.
        mark: of this sitting.

    Attributes:
        tokens_per_word: of the server's tokenizer; what is not known yet is taken to be 1.
        num_extra_tokens: that the server counts in any prompt: its template, and our words around the words.
    """

    def __init__(self, seed: int, mark: str) -> None:
        self._seed = seed
        self._mark = mark
        self.tokens_per_word = 1.0
        self.num_extra_tokens = 0.0

    def calibrate(self, few: tuple[int, int], many: tuple[int, int]) -> None:
        """Learn from two prompts, each by its number of words and the tokens that the server counted in it."""
        if many[1] <= few[1]:  # it counts something else
            return
        self.tokens_per_word = (many[1] - few[1]) / (many[0] - few[0])
        self.num_extra_tokens = max(0.0, few[1] - few[0] * self.tokens_per_word)

    def num_words(self, num_tokens: int) -> int:
        """How many words make a prompt of so many tokens."""
        return max(1, round((num_tokens - self.num_extra_tokens) / self.tokens_per_word))

    def chat(self, name: str, num_words: int) -> tuple[Message, ...]:
        """A prompt; the same name gives the same words."""
        chance = random.Random(f"words:{self._seed}:{name}")
        words = " ".join(chance.choices(_WORDS, k=num_words))
        return (
            Message(
                "user", f"{self._mark}-{name.replace(' ', '-')}: {words}\nGo on in this way, with many more words."
            ),
        )


_WORDS = tuple(
    """
    able above across add after again air all also and animal answer any apple area arm ask away baby back ball bank
    base be bear beat bed before begin bell best big bird black blue boat body bone book both box boy bread break bridge
    bring brown build burn busy but buy call can car care carry case cat chair change child city class clean clear
    clock close cloud coat cold color come cook corner cost count country cover cow cross cry cup cut dance dark day
    deep dog door down draw dream dress drink drive drop dry duck dust each ear early earth east eat edge egg eight end
    enter even every eye face fact fall family far farm fast feel field fill find fine fire first fish five floor flower
    fly food foot form four free fresh friend from fruit full game garden girl give glass gold good grass great green
    ground group grow hair half hand happy hard hat have head hear heart heat help here high hill hold home horse hot
    hour house ice idea inside island job join jump just keep key kind king kitchen know lake land large last laugh
    leaf learn leave left leg letter life light line list listen little live long look lost love low lunch machine main
    make map mark market meal meet milk mind minute money month moon more morning mother mountain mouth move much music
    name near neck need new next nice night nine noise north nose note now number ocean off often old one open orange
    order other out over page paint paper park part party past path pay pen people picture piece place plan plant play
    point poor pull push put question quick quiet rain reach read ready red rest rich ride right ring river road rock
    room root round rule run salt same sand say school sea seat second see seed sell send seven shape share sheep ship
    shoe shop short show side sign sing sister sit six size skin sky sleep slow small smile snow soft some song soon
    sound south space speak spoon spring square stand star start stay step still stone stop story street strong sugar
    summer sun sure swim table take talk tall taste tea teach tell ten test than thank then thick thin thing think three
    time tired today together top touch town train travel tree true try turn two under until up use very village visit
    voice wait walk wall want warm wash watch water way wear week well west wet wheel when white wide wild wind window
    winter wish with wood word work world write year yellow yes young
    """.split()  # noqa: SIM905 - a list of 500 words is read, not parsed
)
