"""The records and the rules that protect them: money, ledger, prices, keys, catalog. Knows no HTTP and no data frames."""
