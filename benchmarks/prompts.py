"""Make prompts: the same for every contestant, different in every round, of varied length.

They differ from their first word on, so that no server can answer from a cache of an earlier round's.
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
    """Return prompts that are a function of the seed alone.

    The lengths take turns, so that each part of a load has the same mix.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return tuple(_make_prompt(WORD_COUNTS[index % len(WORD_COUNTS)], dice) for index in range(count))


def _make_prompt(words: int, dice: random.Random) -> str:
    chosen = " ".join(dice.choice(WORDS) for _ in range(words))
    return f"{chosen}. Tell a long story in which all these things come up, one after the other."
