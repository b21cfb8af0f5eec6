"""Check all settings and do nothing else: `python -m stages`, before DVC reads params.yaml its own way."""

import sys

from fewstep.errors import UserError
from stages.settings import checks

try:
    checks.read_checked()
except UserError as error:
    sys.exit(str(error))
