"""`make demo` shows the relay end to end on this machine; `make up` leaves it running there."""
