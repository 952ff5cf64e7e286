"""The dashboard at `/dashboard` and the documentation at `/docs`: pages for a browser.

`pages.py` lists every page and wraps it: who may see it, what its form must carry, which header
fields its answer has. `site.py` says what a page is given (`Visit`). A page reads through the
ledger's read-only connections and the parts of the running server, and changes things only through
the admin verbs, so that what a form can do is what the admin API can do. `app.py` calls
`pages.register`; nobody else imports this room.
"""
