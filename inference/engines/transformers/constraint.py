"""Hold an answer to a grammar: say which tokens may come next, until only the end may.

llguidance walks the grammar, byte by byte through the tokens of the model. It has no part in how a token is
chosen among those that may come.

Source: llguidance 1.7, `docs/syntax.md` for the grammars and `_lib.pyi` for `LLMatcher`, which raises
nothing: it has to be asked whether it is in error.
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
"""llguidance's own limits on how much work a grammar may make. Its longer errors would quote the answer."""


class Vocabulary:
    """Know a model's tokens as llguidance wants them. Safe to use from several threads.

    They are made ready when a grammar first asks for them, which can take a second: many servers never see
    one.

    Args:
        tokenizer: A fast one.
        end_token_ids: The tokens that end an answer.
        width: For how many tokens the model has scores.
    """

    def __init__(self, tokenizer: Any, end_token_ids: frozenset[int], width: int) -> None:  # noqa: ANN401 - a transformers tokenizer, which has no useful type
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._width = width
        self._tokens: LLTokenizer | None = None
        self._lock = threading.Lock()

    def constrain(self, grammar: str) -> Constraint:
        """Compile a grammar, in llguidance's form of Lark. For a thread: a large one takes a while.

        Raises:
            EngineError: If the grammar makes no sense, or the tokenizer is none that llguidance knows.
        """
        matcher = LLMatcher(self._ready(), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise EngineError(f"the grammar cannot be used: {matcher.get_error().strip()}")
        return Constraint(matcher)

    def _ready(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                self._tokens = self._make()
            return self._tokens

    def _make(self) -> LLTokenizer:
        if not self._end_token_ids:
            raise EngineError("the model has no token that ends an answer, so no grammar can end")
        # A model may have scores for more tokens than there are, and a tokenizer more tokens than scores.
        size = max(self._width, len(self._tokenizer))
        try:
            return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=sorted(self._end_token_ids))
        except ValueError as error:
            raise EngineError(f"the model's tokenizer is none that grammars work with: {error}") from error


class Constraint:
    """Be one answer's way through a grammar. `Vocabulary.constrain` makes it."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """Return for each of so many tokens (width,) whether it may come next; at least one may.

        An end token may come where the text may end, and nothing else may where it must.

        Raises:
            EngineError: If there is no way on, or finding it takes more than the limits allow.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(packed, count=width, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise EngineError("the grammar allows no token that the model has")
        return allowed

    def take(self, token_id: int) -> None:
        """Go on by a token.

        Raises:
            EngineError: If it may not come here.
        """
        # Where the text had to end, only an end token can have come.
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            # Its words would quote the answer, which is nobody's but the client's.
            raise EngineError(f"the grammar cannot be followed further ({self._matcher.stop_reason()})")
