"""``python -m pagemig``: the ``pagemig`` command."""

import sys

from pagemig.cli import main

sys.exit(main())
