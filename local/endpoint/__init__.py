"""The stand-in for BetaTel's endpoint, and the ways in which it can misbehave."""
