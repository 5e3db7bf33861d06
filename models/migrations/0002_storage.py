"""Owns how PostgreSQL stores the hot tables. Measured with the ledger's statements in batches of 32 (PostgreSQL 15):

account, 1,000 of them, 71,000 updates: a page filled to the brim has no room for a row's next version, which then goes
to another page and into the index. With fillfactor 100, 87 % of the updates stayed in their page (HOT), 12,600 dead
versions were left and the table grew to 920 KiB; with 50 it was 100 %, 61 and 192 KiB. While a report keeps a snapshot
open, nothing can be cleaned: 2 % stayed with fillfactor 100, 35 % with 70, 57 % with 50. Afterwards a vacuum brings them
from 89 % back to 100 %, so autovacuum looks soon, and does not pause within so small a table.

hold: each one dies once, when it is settled, and leaves an entry in the index of open holds. Recovery reads past those:
0.3 s for a million. At the default of 20 % there would be 20 million of them among 100 million holds; with 2 % it is two.
A fillfactor does nothing for it: `hold_open` names the status, so an update of that is never HOT (0 % with 100, 80 and 50).

epoch is a page or two, which autovacuum's defaults keep clean; `transfer` and `usage` are only appended to.
"""

from tortoise import migrations

from models.migrations._postgres import RunOnPostgres

class Migration(migrations.Migration):
    dependencies = [('models', '0001_initial')]

    operations = [
        RunOnPostgres(
            [
                'ALTER TABLE account SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02,'
                ' autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0)',
                'ALTER TABLE hold SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 50000)',
            ],
            reverse_sql=[
                'ALTER TABLE account RESET (fillfactor, autovacuum_vacuum_scale_factor,'
                ' autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay)',
                'ALTER TABLE hold RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)',
            ],
        ),
    ]
