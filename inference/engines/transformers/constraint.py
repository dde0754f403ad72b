"""Constrain answers to a grammar: compute which tokens are allowed next.

llguidance matches the bytes of the model's tokens against the grammar. Sampling among the allowed tokens is
left to `sampling`.

Source: llguidance 1.7, `docs/syntax.md` for the grammars and `_lib.pyi` for `LLMatcher`, which raises no
exceptions: its `is_error` has to be checked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer

from inference.errors import EngineError

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

LIMITS: Final = LLParserLimits(verbose_errors=False)
"""llguidance's default limits on a grammar's work. Its verbose errors would quote the answer."""


class Vocabulary:
    """A model's tokens in llguidance's form. Safe to use from several threads.

    They are converted when the first grammar is compiled, which can take a second: many servers never get
    one.

    Args:
        tokenizer: A fast one.
        end_token_ids: The tokens that end an answer.
        width: The number of tokens that the model computes scores for.
    """

    def __init__(self, tokenizer: Any, end_token_ids: frozenset[int], width: int) -> None:  # noqa: ANN401 - a transformers tokenizer, which has no useful type
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._width = width
        self._tokens: LLTokenizer | None = None
        self._lock = threading.Lock()

    def constrain(self, grammar: str) -> Constraint:
        """Compile a grammar in llguidance's Lark syntax. Run it in a thread: a large grammar takes a while.

        Raises:
            EngineError: If the grammar is invalid, or llguidance does not support the tokenizer.
        """
        matcher = LLMatcher(self._converted(), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise EngineError(f"the grammar cannot be used: {matcher.get_error().strip()}")
        return Constraint(matcher)

    def _converted(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                self._tokens = self._convert()
            return self._tokens

    def _convert(self) -> LLTokenizer:
        if not self._end_token_ids:
            raise EngineError("the model has no token that ends an answer, so no grammar can end")
        # Models may compute scores for more tokens than the tokenizer has, or for fewer.
        size = max(self._width, len(self._tokenizer))
        try:
            return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=sorted(self._end_token_ids))
        except ValueError as error:
            raise EngineError(f"grammars do not support the model's tokenizer: {error}") from error


class Constraint:
    """The state of one answer in a grammar. `Vocabulary.constrain` creates it."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """Return whether each token is allowed next (width,); at least one is.

        An end token is allowed where the text may end, and nothing else where it has to.

        Raises:
            EngineError: If no token is allowed, or finding out exceeds llguidance's limits.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(packed, count=width, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise EngineError("the grammar allows no token that the model has")
        return allowed

    def advance(self, token_id: int) -> None:
        """Advance by a token.

        Raises:
            EngineError: If it is not allowed here.
        """
        # Where the text had to end, only an end token was allowed.
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            # llguidance's own message would quote the answer, which may be confidential.
            raise EngineError(f"the grammar cannot be followed further ({self._matcher.stop_reason()})")
