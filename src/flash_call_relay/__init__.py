"""Flash Call Relay: flash-call results in, the documented webhook POST out."""

__version__ = "0.1.0"
