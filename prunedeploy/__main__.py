"""``python -m prunedeploy``: the same as the ``prunedeploy`` command."""

import os
import sys

# Python puts the current folder in front: a file numpy.py in it would run in numpy's place. What
# the user names in it is found all the same (``checkpoint/current_folder.py``).
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109
    del sys.path[0]

from prunedeploy.cli import main

sys.exit(main())
