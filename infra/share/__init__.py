"""The file share: its protocol and the Azure Files implementation."""
