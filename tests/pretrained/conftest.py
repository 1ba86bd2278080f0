"""Real pretrained weights out of a Python package; not collected unless EYAS_PRETRAINED=1 says so (`make test-pretrained`)."""

import os

collect_ignore_glob = [] if os.environ.get("EYAS_PRETRAINED") == "1" else ["test_*.py"]
