"""`make soak`: every fault at once, and a check of the promises."""
