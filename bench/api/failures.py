"""Why there is no answer, as three kinds that differ in what is to be done; and which kind a response is.

ApiFailure
├── ServiceFailure    the service could not answer now: ask again
├── RequestFailure    it will not answer this request: an error on its sample
└── AccessFailure     it will answer none: key, credit, model or address are wrong; the run stops
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.api.contract import Access, Answer

# What a body says when waiting does not help, by provider (OpenAI and compatible; Anthropic; Moonshot; DashScope;
# Gemini's quota ids).
_NO_CREDIT = re.compile(
    r"insufficient_quota|billing_hard_limit|credit balance|exceeded_current_quota|arrearage|PerDayPerProject", re.I
)
_BAD_KEY = re.compile(r"API_KEY_INVALID|API key not valid|invalid_api_key", re.I)
# What a body says when the prompt was held back (OpenAI and Azure, Moonshot; DashScope; xAI; OpenRouter; Zhipu).
_FILTERED = re.compile(
    r"content_filter|content_policy_violation|data_inspection_failed|violates usage guidelines|flagged_input|"
    r"input was flagged|\"1301\"|'1301'",
    re.I,
)
_REFUSED_SETTING = re.compile(
    r"\b(temperature|stop)\b(?=.{0,120}(?:unsupported|not support|deprecated|does not|not allowed|cannot be))|"
    r"(?:unsupported|not support|deprecated|not allowed).{0,120}\b(temperature|stop)\b",
    re.I | re.S,
)
# What a stream says that is broken off for want of room (Anthropic; OpenAI and compatible; Gemini).
_OVERLOADED = re.compile(r"overloaded|rate_limit|too many requests|RESOURCE_EXHAUSTED|UNAVAILABLE", re.I)
_BUSY = frozenset({429, 503, 529})
_PASSING = frozenset({408, 409, 425, 429, 498, 499})
_MESSAGE_CHARS = 240


class ApiFailure(Exception):
    """There is no answer."""


class ServiceFailure(ApiFailure):
    """The service could not answer now.

    Attributes:
        retry_after_s: how long it asks to be left alone.
        is_throttle: it says that it is asked too much.
        is_billed: whether the answer that did not arrive may have been made, and charged.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        is_throttle: bool = False,
        is_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_throttle = is_throttle
        self.is_billed = is_billed


class RequestFailure(ApiFailure):
    """The service will not answer this request; another one it may."""


class AccessFailure(ApiFailure):
    """The service will answer no request."""


class PromptFiltered(ApiFailure):
    """The service holds the prompt back: an answer of its own kind, though it comes as an error."""


@dataclass(frozen=True, slots=True)
class Response:
    """An unsuccessful response: its status, its headers and what its body says."""

    status: int
    headers: Mapping[str, str]
    text: str


def failure_of(access: Access, response: Response) -> ApiFailure:
    """What kind of failure an unsuccessful response is."""
    status, text = response.status, response.text
    where = f"{access.provider} answered {status}" + (f": {redacted(text, access)}" if text.strip() else "")
    if status in (400, 403, 451) and _FILTERED.search(text):
        return PromptFiltered(where)
    if (advice := _why_fatal(access, status, text)) is not None:
        return AccessFailure(where + advice)
    if status in _PASSING or status >= 500:
        return ServiceFailure(where, retry_after_s=retry_after_s(response.headers, text), is_throttle=status in _BUSY)
    return RequestFailure(where)


def _why_fatal(access: Access, status: int, text: str) -> str | None:
    """What to say of a response after which no other request can do better; None if it is not such a one."""
    if status == 401 or _BAD_KEY.search(text):
        return f" (the key is the one in {access.key_name})" if access.key_name else " (no key was sent)"
    if status == 404:
        return f" (is {access.model!r} the name of a model there, and {access.base_url} its address?)"
    if status == 400 and (refused := _REFUSED_SETTING.search(text)):
        return f" (say `api: {{omit: [{(refused[1] or refused[2]).lower()}]}}` of this model)"
    return "" if status in (402, 403) or _NO_CREDIT.search(text) else None


def lost(access: Access, problem: BaseException) -> ServiceFailure:
    """The connection failed or the answer cannot be read: it may have been made."""
    words = redacted(str(problem), access) or type(problem).__name__
    return ServiceFailure(f"{access.provider}: {words}", is_billed=True)


def in_the_midst(failure: ApiFailure) -> ServiceFailure:
    """The failure of an answer that had begun to come: it may be charged, and its status said that all was well."""
    words = f"{failure} (in the midst of the answer)"
    return ServiceFailure(words, is_throttle=bool(_OVERLOADED.search(words)), is_billed=True)


@contextmanager
def told_apart(access: Access, sdk: Any) -> Iterator[None]:
    """Turn the exceptions of OpenAI's or Anthropic's SDK, which name them alike, into failures."""
    try:
        yield
    except sdk.APIStatusError as error:
        raise failure_of(access, Response(error.status_code, error.response.headers, str(error))) from None
    except (sdk.APIError, ValueError) as error:  # no connection, a time-out, a body that is no JSON
        raise lost(access, error) from None


def answer_or_failure(read: Callable[[], Answer]) -> Answer | ApiFailure:
    """What one of many responses holds; one that cannot be read leaves the others alone."""
    try:
        return read()
    except ApiFailure as failure:
        return failure


def redacted(text: str, access: Access) -> str:
    """Words of a provider, in one short line, without the key."""
    if access.key:
        text = text.replace(access.key, "***")
    return " ".join(text.split())[:_MESSAGE_CHARS]


def retry_after_s(headers: Mapping[str, str], text: str = "") -> float | None:
    """How long to wait, by `retry-after-ms`, `retry-after` (seconds or a date), or Google's RetryInfo in the body."""
    if (wait := _number(headers.get("retry-after-ms"))) is not None:
        return wait / 1000
    value = headers.get("retry-after")
    if value is not None:
        if (wait := _number(value)) is not None:
            return wait
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
    found = re.search(r"retryDelay\W+(\d+(?:\.\d+)?)s", text)
    return float(found[1]) if found else None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None
