"""The HTTP interface: the OpenAI API, the chat page and the middleware around them."""
