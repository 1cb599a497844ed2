"""`python -m party ROLE`: one process of a committee."""

import importlib
import sys

if __name__ == "__main__":
    role = sys.argv[1]
    if role not in ("enclave", "party", "coordinator"):
        sys.exit(f"Expected a role, found {role!r}.")
    importlib.import_module("party." + role).main()
