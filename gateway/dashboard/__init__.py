"""The dashboard: where customers sign up, make keys, see what they spent, and pay. Pages are made here, rules are in `models`.

`pages.py` leads from an address to its page and its troubles, `visits.py` is one look at a page (who looks, forms, headers),
`site.py` the templates and the files they load; each other module is the pages of one part. What is read from other accounts
must be impossible, so every query takes the visit's own account.
"""

from gateway.dashboard import (
    account,
    billing,
    catalogue,
    documentation,
    keys,
    overview,
    playground,
    reset,
    signing,
    statements,
    usage,
)

PAGES = (
    signing.pages,
    reset.pages,
    overview.pages,
    keys.pages,
    catalogue.pages,
    usage.pages,
    billing.pages,
    statements.pages,
    playground.pages,
    account.pages,
    documentation.pages,
)
