"""The hot path: one request, from the caller to the upstream and back. Knows no SQL.

Vocabulary. A *client* is who called the gateway; an *upstream* is the provider's server. A
*downstream* is the client's side of one request, an *exchange* is one request with everything
that happened to it, a *target* is a provider and a model that a request may go to.
"""
