"""`make demo`, and the stack that `make up` leaves running."""
