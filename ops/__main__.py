"""Entry point of `flash-call-relay` and of `python -m ops`."""

import signal
import sys

# The imports take a moment. Until they are done, Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from ops.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
