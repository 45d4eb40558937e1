"""The operators' command: `flash-call-relay`, or `python -m ops` in a checkout."""
