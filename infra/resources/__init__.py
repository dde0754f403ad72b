"""The Azure resources of a stage: where they are, which of them provision made, and what they report."""
