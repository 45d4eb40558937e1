"""`make demo` shows the relay end to end on this machine; `make up` runs it there to try it out."""
