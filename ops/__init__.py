"""The operators' commands: `flash-call-relay`, or `python -m ops` in a checkout."""
