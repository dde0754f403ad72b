"""The request pipeline: validation, admission, generation and the request lifecycle."""
