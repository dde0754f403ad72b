"""The sign-in of the chat page: the middleware, its sessions and the limit of attempts."""
