# SPDX-License-Identifier: Apache-2.0
"""Entry of `kedge-agent`."""

from kedge_agent.cli import main

if __name__ == "__main__":
    main()
