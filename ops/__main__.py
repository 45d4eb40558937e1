"""`flash-call-relay`, and `python -m ops` in a checkout."""

import signal
import sys

# While there is nothing to let go of, to be interrupted is to end. The imports take a moment.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from ops.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
