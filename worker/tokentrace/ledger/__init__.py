"""The ledger: hours of every group in a SQL database, kept exactly once from the rollups, and bills made of them.

A rollup is what one commit added, by event minute. `cells` sums rollups to hours, `store` adds these to the database in
one transaction with the position behind the rollups, and `follow` reads the topic. `query` answers from the database,
and what is made of the answers is in a module of its own each: `proof`, `reprice`, `formats`, `focus`.

SQLAlchemy and Alembic come with the extra `tokentrace[ledger]`. Nothing outside this package imports them, and no
module outside it imports this package before a command needs it.
"""

from __future__ import annotations

import logging

# Alembic logs its parts while it is imported.
logging.getLogger("alembic").setLevel(logging.WARNING)
