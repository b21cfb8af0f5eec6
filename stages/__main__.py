"""Check all settings and do nothing else: `python -m stages`, before DVC reads params.yaml its own way."""

import sys

from fewstep.errors import UserError
from stages.settings.params import Params

try:
    Params.read().check()
except UserError as error:
    sys.exit(str(error))
