"""The sandbox's function: BetaTel's documented contract, kept on AWS."""
