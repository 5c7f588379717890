"""``python -m prunedeploy``: the same as the ``prunedeploy`` command."""

import sys

from prunedeploy.cli import main

sys.exit(main())
