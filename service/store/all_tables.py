"""Every table; whoever works on the whole schema imports this module, and misses no table."""

from service.store.audit_tables import AuditChain, AuditPerson, AuditRow
from service.store.key_tables import Key, SignIn
from service.store.tables import Table

METADATA = Table.metadata
LATER_TABLES = (AuditChain, AuditPerson, AuditRow, Key, SignIn)
"""The tables that do not stand in `service.store.tables`."""
