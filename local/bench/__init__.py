"""`make bench`: what the relay costs, measured beside what people would use instead."""
