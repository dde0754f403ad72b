"""Keep NaN and infinity in one request's keys and values from reaching the others in its step.

transformers' own `sdpa` and `eager` attention multiply every token with the keys and values of all requests
of a step, and give those of other requests the weight zero. Zero times NaN is NaN. So with them, numbers that
are not finite are replaced before they are written to the cache, and their request fails. Flash attention and
`attention` read only a request's own keys and need none of this.

Source: transformers 5.23, `integrations/sdpa_attention.py`, `integrations/eager_paged.py` and
`PagedAttentionCache.update` in `generation/continuous_batching/cache.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

MASKED_ATTENTION: Final = frozenset({"sdpa", "paged|eager"})
"""The attention implementations that multiply with the keys and values of other requests."""


def needs_guard(network: Any) -> bool:  # noqa: ANN401 - transformers publishes no types
    """Return whether a network's attention multiplies with the keys and values of other requests."""
    return network.config._attn_implementation in MASKED_ATTENTION  # noqa: SLF001 - there is no public way


class CacheGuard:
    """Keeps what is not a finite number out of a paged cache, and tells whose tokens had any."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None

    def watch(self, cache: Any) -> None:  # noqa: ANN401 - see above
        """Check and replace what a cache is given from now on."""
        update = cache.update

        def update_with_numbers(
            key_states: torch.Tensor,
            value_states: torch.Tensor,
            layer_idx: int,
            kwargs: dict[str, Any],
        ) -> tuple[torch.Tensor, torch.Tensor]:
            # A sum is NaN or infinite if any of its numbers is, and float32 is wide enough for the others.
            sums = key_states[0].sum((0, 2), dtype=torch.float32)
            sums += value_states[0].sum((0, 2), dtype=torch.float32)
            self._sums = sums if self._sums is None else self._sums.add_(sums)
            finite = (torch.nan_to_num(states, 0.0, 0.0, 0.0) for states in (key_states, value_states))
            found: tuple[torch.Tensor, torch.Tensor] = update(*finite, layer_idx, kwargs)
            return found

        cache.update = update_with_numbers

    def are_finite(self, lengths: Sequence[int]) -> list[bool]:
        """Return for each request of the step that ends whether all its keys and values are finite.

        Args:
            lengths: The numbers of tokens of the step's requests, in the order of the step.
        """
        if self._sums is None:
            return [True] * len(lengths)
        spans = torch.split(torch.isfinite(self._sums), list(lengths))
        self._sums = None
        return torch.stack([span.all() for span in spans]).tolist()
