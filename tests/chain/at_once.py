"""Runs the stages that its command line names in one process, which imports torch once."""

import sys

from stages.run import runner

for address in sys.argv[1:]:
    stage, _, key = address.partition("@")
    runner.run(stage, key or None)
