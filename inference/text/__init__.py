"""Conversion between text and tokens: chat templates, detokenization, tool calls, grammars."""
