"""The built-in upstream: answers in every format without a key, and misbehaves when asked.

`server.py` is the way in (`make_app`, `start`); `switches.py` lists what a model name can ask for.
It stands for a provider, so it shares nothing with the code that talks to providers: it imports no
other room of the gateway. The composition root, the documentation pages and tests import it.
"""
