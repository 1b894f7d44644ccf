"""`python -m peft_coop`."""

import sys

from .cli import main

sys.exit(main())
