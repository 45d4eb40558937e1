"""`python -m ops`, which is `flash-call-relay` in a checkout."""

import sys

from ops.cli import main

sys.exit(main())
