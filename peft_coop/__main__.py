"""`python -m peft_coop`."""

import sys

from .cli import start

sys.exit(start())
