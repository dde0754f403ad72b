"""The look of the page: Gradio's theme, and the files beside this module that are put into the page."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gradio

FILES: Final = Path(__file__).parent / "files"

SCRIPTS: Final = (
    "dom", "calls", "store", "versions", "dialogs", "answer", "turn", "log", "welcome", "composer", "history",
    "page",
)  # fmt: skip
"""The page's scripts, in the order in which they are put together; the last one begins."""

STYLES: Final = ("layout", "messages", "media")
"""The page's style sheets; each may change what those before it say."""


def read_styles() -> str:
    """Return the page's style sheet."""
    return "\n".join((FILES / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)


def read_frame() -> str:
    """Return the page's frame: where the script puts conversations and messages."""
    return (FILES / "frame.html").read_text(encoding="utf-8")


def read_script() -> str:
    """Return the page's script."""
    parts = ((FILES / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    return '"use strict";\n' + "\n".join(parts)


def make_theme() -> gradio.themes.Base:
    """Return the theme of the settings' controls. System fonts only: nothing is fetched."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gradio.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return theme.set(
        body_background_fill="var(--fj-page)",
        body_background_fill_dark="var(--fj-page)",
        body_text_color="var(--fj-text)",
        body_text_color_dark="var(--fj-text)",
        body_text_color_subdued="var(--fj-quiet)",
        body_text_color_subdued_dark="var(--fj-quiet)",
        block_info_text_color="var(--fj-quiet)",
        block_info_text_color_dark="var(--fj-quiet)",
        block_label_text_color="var(--fj-text)",
        block_label_text_color_dark="var(--fj-text)",
        block_title_text_color="var(--fj-text)",
        block_title_text_color_dark="var(--fj-text)",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_title_text_weight="600",
        input_background_fill="var(--fj-field)",
        input_background_fill_dark="var(--fj-field)",
        input_border_color="var(--fj-line)",
        input_border_color_dark="var(--fj-line)",
    )
