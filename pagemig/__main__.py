"""``python -m pagemig``: the ``pagemig`` command."""

import sys

from pagemig.commands.main import main

sys.exit(main())
