"""The reasoning that some models write before their answer, between `<think>` and `</think>`.

Whether a model does is found in its chat template. Some templates end with `<think>`, so that the answer
begins within the reasoning.

Source: the chat templates of Qwen 3 and DeepSeek R1; DeepSeek API, "Reasoning Model", whose
`reasoning_content` other servers have adopted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from inference.text.detokenizer import longest_partial_match
from inference.text.grammar import text_rule

THINK_TAGS: Final = ("<think>", "</think>")

PromptEnd = Literal["inside", "after", "free"]
"""Whether a prompt ends within the reasoning, after it, or leaves it to the model to reason."""


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The tags around a model's reasoning.

    Attributes:
        special: The tags that are special tokens: pairs of token id and text.
    """

    start_tag: str
    end_tag: str
    special: tuple[tuple[int, str], ...] = ()

    def prompt_end(self, text: str) -> PromptEnd:
        """Return how a prompt ends, given its last characters."""
        text = text.rstrip()
        return (
            "inside" if text.endswith(self.start_tag) else "after" if text.endswith(self.end_tag) else "free"
        )

    def grammar(self, rule: str, end: PromptEnd) -> str:
        """Return the grammar of an answer that matches a rule after its reasoning."""
        if end == "after":
            return f"start: {rule}"
        head = "thought" if end == "inside" else f"({self._tag_rule(self.start_tag)} thought)?"
        if self._has_token(self.end_tag):
            thought = f"thought: /(.|\\n)*/ {self._tag_rule(self.end_tag)}"
        else:
            tag = self.end_tag.replace("/", "\\/")
            thought = f"thought[lazy]: /(.|\\n)*{tag}/"
        return f"start: {head} SPACE ({rule})\n{thought}\nSPACE: /\\n{{0,2}}/"

    def _has_token(self, tag: str) -> bool:
        return tag in dict(self.special).values()

    def _tag_rule(self, tag: str) -> str:
        """Return a tag's rule. A special token cannot be matched as text; it is referred to by its id."""
        ids = [token_id for token_id, text in self.special if text == tag]
        return f"<[{ids[0]}]>" if ids else text_rule(tag)


@dataclass(slots=True)
class ReasoningParser:
    """A streaming parser that separates the reasoning from the answer.

    The tags and the white space around both parts are left out.

    Args:
        tags: The model's tags.
        is_inside: Whether the text begins within the reasoning.

    Attributes:
        skipped: The number of characters before the answer.
    """

    tags: ReasoningFormat
    is_inside: bool
    skipped: int = 0
    _state: Literal["before", "inside", "after", "answer"] = field(default="before", init=False)
    _held: str = field(default="", init=False)
    _has_reasoned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.is_inside:
            self._state = "inside"

    @property
    def is_reasoning(self) -> bool:
        """Return whether the text so far ends within the reasoning."""
        return self._state == "inside"

    def push(self, text: str) -> tuple[str, str]:
        """Add text, and return the reasoning and the answer that are complete now."""
        self._held += text
        reasoning = ""
        if self._state == "before":
            self._find_start()
        if self._state == "inside":
            reasoning = self._read_reasoning()
        if self._state == "after":
            self._drop_space()
        return reasoning, self._take(len(self._held)) if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        """Return what was held back; no text follows."""
        rest, self._held = self._held, ""
        if self._state == "inside":
            self.skipped += len(rest)
            return (rest if rest.strip() else ""), ""
        return "", rest if self._state == "before" else ""

    def _find_start(self) -> None:
        """Find the start tag; anything else but white space begins the answer."""
        rest = self._held.lstrip()
        if rest.startswith(self.tags.start_tag):
            self._skip(len(self._held) - len(rest) + len(self.tags.start_tag))
            self._state = "inside"
        elif rest and not self.tags.start_tag.startswith(rest):
            self._state = "answer"

    def _read_reasoning(self) -> str:
        if not self._has_reasoned:
            self._skip(len(self._held) - len(self._held.lstrip()))
        index = self._held.find(self.tags.end_tag)
        is_over = index >= 0
        if not is_over:
            partial = longest_partial_match(self._held, (self.tags.end_tag,))
            index = len(self._held) - partial
        # White space is held back: it may be the last before the tag.
        text = self._held[:index].rstrip()
        self._has_reasoned = self._has_reasoned or bool(text)
        if is_over:
            self._skip(index + len(self.tags.end_tag))
            self._state = "after"
        else:
            self._skip(len(text))
        return text

    def _drop_space(self) -> None:
        self._skip(len(self._held) - len(self._held.lstrip()))
        if self._held:
            self._state = "answer"

    def _skip(self, end: int) -> None:
        self._take(end)
        self.skipped += end

    def _take(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text
