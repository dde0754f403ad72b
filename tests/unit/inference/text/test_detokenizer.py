from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.text.detokenizer import Detokenizer, StopFinder
from tests.doubles.byte_codec import ByteCodec


def chunks_of(data: bytes, sizes: list[int]) -> list[tuple[int, ...]]:
    chunks, start = [], 0
    for size in sizes:
        chunks.append(tuple(data[start : start + size]))
        start += size
    return [*chunks, tuple(data[start:])]


@given(st.text(), st.lists(st.integers(1, 12)))
def test_any_text_round_trips_and_no_character_is_split(text: str, sizes: list[int]) -> None:
    detokenizer = Detokenizer(ByteCodec().decode)
    pieces = [detokenizer.push(chunk) for chunk in chunks_of(text.encode(), sizes)]
    pieces.append(detokenizer.finish())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.binary(), st.lists(st.integers(1, 5)))
def test_invalid_utf_8_decodes_as_it_does_at_once(data: bytes, sizes: list[int]) -> None:
    detokenizer = Detokenizer(ByteCodec().decode)
    shown = "".join(detokenizer.push(chunk) for chunk in chunks_of(data, sizes)) + detokenizer.finish()
    # The number of U+FFFD for a run of bad bytes may depend on where a window begins; the rest must not.
    assert shown.replace("\ufffd", "") == data.decode(errors="replace").replace("\ufffd", "")


def test_characters_appear_as_soon_as_they_are_whole() -> None:
    detokenizer = Detokenizer(ByteCodec().decode)
    assert [detokenizer.push((byte,)) for byte in "aé😀".encode()] == ["a", "", "é", "", "", "", "😀"]


def test_a_space_before_a_word_survives() -> None:
    # SentencePiece decoders drop the space before the first word of a text.
    words = {1: "▁Hello", 2: "▁there", 3: "!"}
    detokenizer = Detokenizer(
        lambda tokens: "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")
    )
    assert [detokenizer.push((token,)) for token in (1, 2, 3)] == ["Hello", " there", "!"]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], data: st.DataObject) -> None:
    finder = StopFinder(stops)
    shown, position = "", 0
    while position < len(text):
        size = data.draw(st.integers(1, 5))
        shown += finder.push(text[position : position + size])
        position += size
        if finder.is_found:
            break
    shown += finder.finish()
    ends = [index for stop in stops if (index := text.find(stop)) >= 0]
    if not finder.is_found:
        assert shown == text
        assert not ends
    else:
        # Of two stop strings, the one that is complete first decides.
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    finder = StopFinder(["\n\nUser:"])
    assert [finder.push(piece) for piece in ("Hi\n", "\nUs", "eful", "\n\nUser", ": x")] == [
        "Hi", "", "\n\nUseful", "", "",
    ]  # fmt: skip
    assert finder.is_found
    assert finder.push("more") == ""
    assert finder.finish() == ""


def test_without_stop_strings_all_text_is_emitted_at_once() -> None:
    finder = StopFinder([])
    assert finder.push("a") == "a"
    assert finder.finish() == ""
