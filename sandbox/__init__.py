"""A sandbox in place of BetaTel in an AWS account, and the command that proves a relay against it."""
