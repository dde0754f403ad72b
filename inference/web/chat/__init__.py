"""The chat page: put one question to the fine-tuned models and their base, side by side, in a browser."""
