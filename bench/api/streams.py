"""An answer that comes in pieces: what all clients do with them, and what it means that no more come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.api.contract import Access, Heard
from bench.api.failures import ApiFailure, in_the_midst, lost


class Stream:
    """The pieces of one answer.

    Args:
        access: for messages.
        heard: is told of each piece.

    Attributes:
        is_begun: something of the answer, if only its frame, has come.
    """

    def __init__(self, access: Access, heard: Heard) -> None:
        self._access = access
        self._heard = heard
        self._texts: list[str] = []
        self.is_begun = False

    @property
    def text(self) -> str:
        """All that was said, without thoughts."""
        return "".join(self._texts)

    def say(self, text: str | None, *, is_thought: bool = False) -> None:
        """Take a piece; those without text are frames."""
        if text:
            if not is_thought:
                self._texts.append(text)
            self._heard(text, is_thought=is_thought)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn whatever ends the stream early into a failure.

        SDKs let the exceptions of their HTTP library through while a stream is read, and which that is depends on what
        is installed; so all of them are taken.
        """
        try:
            yield
        except ApiFailure as failure:
            raise in_the_midst(failure) if self.is_begun else failure from None
        except Exception as error:
            raise lost(self._access, error) from None

    def cut(self) -> ApiFailure:
        """The failure of a stream that has ended without a word of why."""
        return lost(self._access, ValueError("the stream ended before the answer did"))
