"""Generate prompts of varied length: the same for every contestant, different in every round.

They differ from the first word, so that no server can use a prefix cached in an earlier round.
"""

from __future__ import annotations

import random
from typing import Final

WORD_COUNTS: Final = (8, 16, 32, 64, 96)
WORDS: Final = (
    "amber", "anchor", "autumn", "bakery", "ballad", "basket", "beacon", "blanket", "bridge", "bronze",
    "candle", "canyon", "carpet", "castle", "cedar", "cellar", "chapel", "cherry", "cinema", "circle",
    "copper", "corner", "cotton", "cradle", "desert", "dinner", "domino", "dragon", "engine", "fabric",
    "falcon", "feather", "fiddle", "forest", "fountain", "galaxy", "garden", "ginger", "glacier", "guitar",
    "hammer", "harbor", "hazel", "helmet", "island", "jacket", "jungle", "kettle", "ladder", "lantern",
    "lemon", "letter", "marble", "meadow", "mirror", "mountain", "needle", "ocean", "orchard", "paper",
    "pencil", "pepper", "pillow", "planet", "pocket", "puzzle", "rabbit", "ribbon", "river", "saddle",
    "salmon", "shadow", "silver", "spiral", "summer", "sunset", "temple", "thunder", "timber", "tunnel",
    "valley", "velvet", "violin", "walnut", "window", "winter", "yellow",
)  # fmt: skip


def make_prompts(count: int, seed: str) -> tuple[str, ...]:
    """Return prompts that depend only on the seed.

    Their lengths rotate, so that all parts of a load have the same distribution.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return tuple(_make_prompt(WORD_COUNTS[index % len(WORD_COUNTS)], rng) for index in range(count))


def _make_prompt(words: int, rng: random.Random) -> str:
    chosen = " ".join(rng.choice(WORDS) for _ in range(words))
    return f"{chosen}. Tell a long story in which all these things come up, one after the other."
