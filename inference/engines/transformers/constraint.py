"""Constrain answers to a grammar: compute which tokens are allowed next.

llguidance matches the bytes of the model's tokens against the grammar. Sampling among the allowed tokens is
left to `sampling`.

Source: llguidance 1.7, `docs/syntax.md` for the grammars and `_lib.pyi` for `LLMatcher`, which raises no
exceptions: its `is_error` has to be checked.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer

from inference.errors import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llguidance import LLTokenizer
    from numpy.typing import NDArray

LIMITS: Final = LLParserLimits(max_items_in_row=10_000, step_max_items=20_000, verbose_errors=False)
"""The limits on a grammar's work. A row has four items for each optional property of an object, so that the
default allows 500; a step may search half of the default, as it is computed between those of other requests.
Verbose errors would quote the answer."""

TOO_MANY_ITEMS: Final = re.compile("Current row has|Too many items")
"""llguidance's errors about its limits, for which it has no stop reason."""

FREE_S: Final = 1.0
TOKEN_S: Final = 0.02
"""The processor time that an answer's grammar may take: `FREE_S`, and `TOKEN_S` for each token.

Other requests of the batch wait meanwhile. JSON takes a tenth of a millisecond a token; a grammar that can be
read in many ways, such as `start: start start | "a"`, takes more with each token.
"""


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
            RequestRefusedError: If the grammar is invalid, or llguidance does not support the tokenizer.
        """
        matcher = LLMatcher(self._converted(), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise RequestRefusedError(f"the grammar cannot be used: {matcher.get_error().strip()}")
        return Constraint(matcher)

    def _converted(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                self._tokens = self._convert()
            return self._tokens

    def _convert(self) -> LLTokenizer:
        if not self._end_token_ids:
            raise RequestRefusedError("the model has no token that ends an answer, so no grammar can end")
        # Models may compute scores for more tokens than the tokenizer has, or for fewer.
        size = max(self._width, len(self._tokenizer))
        try:
            return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=sorted(self._end_token_ids))
        except ValueError as error:
            raise RequestRefusedError(f"grammars do not support the model's tokenizer: {error}") from error


class Constraint:
    """The state of one answer in a grammar. `Vocabulary.constrain` creates it.

    Args:
        matcher: llguidance's state.
        clock: Returns the processor time of the thread, in seconds.
    """

    def __init__(self, matcher: LLMatcher, clock: Callable[[], float] = time.thread_time) -> None:
        self._matcher = matcher
        self._clock = clock
        self._tokens = 0
        self._spent_s = 0.0

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """Return whether each token is allowed next (width,); at least one is.

        An end token is allowed where the text may end, and nothing else where it has to.

        Raises:
            RequestRefusedError: If no token is allowed, or finding out exceeds the limits.
        """
        began_s = self._clock()
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._spent_s += self._clock() - began_s
        self._check()
        allowed = np.unpackbits(packed, count=width, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise RequestRefusedError("the grammar allows no token that the model has")
        return allowed

    def advance(self, token_id: int) -> None:
        """Advance by a token.

        Raises:
            RequestRefusedError: If it is not allowed here, or the grammar takes too long.
        """
        # Where the text had to end, only an end token was allowed.
        if not self._matcher.is_stopped():
            began_s = self._clock()
            self._matcher.consume_token(token_id)
            self._spent_s += self._clock() - began_s
        self._tokens += 1
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            # llguidance's own message would quote the answer, which may be confidential.
            is_complex = TOO_MANY_ITEMS.search(self._matcher.get_error())
            reason = "it is too complex" if is_complex else self._matcher.stop_reason()
            raise RequestRefusedError(f"the grammar cannot be followed further ({reason})")
        if self._spent_s > FREE_S + TOKEN_S * self._tokens:
            raise RequestRefusedError(
                f"the grammar takes too long ({self._spent_s:.1f} s up to token {self._tokens}): can it read"
                " one text in many ways?"
            )
