"""`make soak` runs the relay under every fault together, and checks its promises."""
